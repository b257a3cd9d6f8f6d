//! Messages between replicas, and records of their log.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| omma_shard::fuzzing::raft(bytes));
