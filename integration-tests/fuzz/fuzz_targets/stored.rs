//! Records of the store, and manifests of checkpoints.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| omma_shard::fuzzing::stored(bytes));
