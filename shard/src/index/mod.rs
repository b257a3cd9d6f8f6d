//! The vector index of one collection in one replica.
