//! Omma's shard node: owns the data, replicates it, searches it, and turns pictures into embeddings.
//!
//! Imports go one way: `api → {group, encoder} → {images, index} → store`; nothing imports `api`.

pub mod api;
pub mod encoder;
pub mod group;
pub mod index;
pub mod store;
