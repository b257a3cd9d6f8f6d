//! The image state machine: what one replica of a shard group holds, and how commands change it.
//!
//! One write, through these files: [`state`] takes committed commands, [`plan`] decides what each changes (pure),
//! the store makes the changes in one batch, and the collection's index follows. [`maintenance`] moves the tail into
//! the HNSW graph and writes checkpoints; [`snapshot`] sends and takes whole states.

mod answers;
mod audit;
mod checkpoint;
mod collection;
pub mod command;
mod cut;
mod digest;
pub mod digests;
mod export;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod keys;
mod leisure;
mod maintenance;
pub mod offline;
mod open;
mod plan;
mod query;
mod ranking;
pub mod recall;
mod recent;
mod records;
mod retry;
pub mod slots;
mod slots_moves;
mod snapshot;
mod state;
mod version;

pub use cut::{CutPage, NewCut};
pub use query::{ImageHit, Stored};
pub use recent::Recent;
pub use state::{ImageState, ImagesConfig, InUse, StateStats};

#[cfg(test)]
mod filter_tests;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod slots_simulation;
#[cfg(test)]
mod tests;
