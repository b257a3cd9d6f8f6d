//! Planner, metadata state machine and a model of groups and nodes, driven by one seed: nodes die, come back, lose
//! their disks, join, are drained, run out of room; whoever drives dies between any two steps; steps are lost, late and
//! repeated.
//!
//! `OMMA_SIM_SEED=SEED` repeats one run, `OMMA_SIM_RUNS=N` runs so many.

mod drive;
mod harm;
mod invariants;
mod model;
mod tests;
mod world;

/// Ticks of silence after which a node counts as lost.
const LOST_AFTER: u32 = 15;
