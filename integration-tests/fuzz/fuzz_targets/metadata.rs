//! Commands of the metadata group.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| omma_shard::fuzzing::metadata(bytes));
