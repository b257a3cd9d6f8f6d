//! Reads over many groups: which replica to ask and when to ask a second one, what is missing, and the merge.

pub(crate) mod coverage;
pub(crate) mod fan_out;
pub(crate) mod hedge;
pub(crate) mod merge;
pub(crate) mod patience;
pub(crate) mod replica;
