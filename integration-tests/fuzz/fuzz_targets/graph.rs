//! The graph of a checkpoint, into the engine.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| omma_shard::fuzzing::graph(bytes));
