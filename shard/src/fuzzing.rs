//! What the fuzz targets of `integration-tests/fuzz` call, one function each. Compiled for them and for tests alone, as
//! it reaches past what is public. Each must return, whatever the bytes are; what they find becomes a file of the
//! target's corpus, and the test below reads those.

pub use crate::attributes::fuzzing::attributes;
pub use crate::encoder::fuzzing::picture;
pub use crate::group::fuzzing::raft;
pub use crate::images::fuzzing::{snapshot, stored};
pub use crate::index::fuzzing::graph;
pub use crate::metadata::fuzzing::metadata;

#[cfg(test)]
#[path = "fuzzing_tests.rs"]
mod tests;
