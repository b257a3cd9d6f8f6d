//! Real-process clusters for tests: the harness, and what the tests share.
//!
//! [`cluster`] starts `omma-shard` and `omma-coordinator` as processes on loopback and does harm to them; [`client`]
//! talks to the public API through the generated code; [`replicas`] asks each replica directly, past the coordinator;
//! [`ingest`] is the write load that runs while something fails; [`pictures`] and [`vectors`] make the data.

#![forbid(unsafe_code)]

pub mod client;
pub mod cluster;
pub mod convergence;
pub mod folders;
pub mod ingest;
pub mod notes;
pub mod pictures;
pub mod placement;
pub mod ports;
pub mod process;
pub mod python;
pub mod refusal;
pub mod replicas;
pub mod runtime;
pub mod secured;
pub mod vectors;
pub mod watchdog;
