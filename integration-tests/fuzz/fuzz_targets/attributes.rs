//! The attribute index of a checkpoint.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| omma_shard::fuzzing::attributes(bytes));
