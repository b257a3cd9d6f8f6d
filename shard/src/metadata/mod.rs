//! The metadata group: collections, nodes and the cluster map, replicated; and the planner that decides placement.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod groups;
mod machine;
mod moves;
mod nodes;
pub(crate) mod planner;
pub(crate) mod rules;
mod state;

pub use machine::MetadataMachine;
pub(crate) use nodes::concerns;
