//! Bytes of a picture, to the numbers that the model gets.

#![no_main]

libfuzzer_sys::fuzz_target!(init: omma_fuzz::forgive_decoders(), |bytes: &[u8]| omma_shard::fuzzing::picture(bytes));
