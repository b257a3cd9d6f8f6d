//! What the fuzz target `requests` of `integration-tests/fuzz` calls. Compiled for it and for tests alone, as it reaches
//! past what is public.

pub use crate::api::fuzzing::requests;
