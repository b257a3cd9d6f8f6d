//! The snapshot of a shard group, into the store.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| omma_fuzz::with_store(|store| omma_shard::fuzzing::snapshot(store, bytes)));
