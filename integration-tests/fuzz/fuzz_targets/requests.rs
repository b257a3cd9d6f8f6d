//! Messages of the public API, through validation.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| omma_coordinator::fuzzing::requests(bytes));
