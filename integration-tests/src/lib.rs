//! Real-process clusters for tests: the harness, and what the tests share.
//!
//! [`cluster`] starts `omma-shard` and `omma-coordinator` as processes on loopback and does harm to them; [`client`]
//! talks to the public API through the generated code; [`replicas`] asks each replica directly, past the coordinator;
//! [`ingest`] is the write load that runs while something fails; [`pictures`] and [`vectors`] make the data; [`admin`] reads
//! metrics and probes, [`kubelet`] asks probes as Kubernetes does, [`collector`] stands in for a trace collector,
//! [`object_store`] is an object store.
//!
//! [`storm`] draws faults from a seed and lets clients work under them; [`network`] is where it cuts and slows links;
//! [`history`] checks what the clients saw.

#![forbid(unsafe_code)]

pub mod admin;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod convergence;
pub mod disks;
pub mod folders;
pub mod history;
pub mod ingest;
pub mod kubelet;
pub mod metric_names;
pub mod nested;
pub mod network;
pub mod notes;
pub mod object_store;
pub mod pictures;
pub mod placement;
pub mod ports;
pub mod power;
pub mod process;
pub mod python;
pub mod refusal;
pub mod replicas;
pub mod runtime;
pub mod secured;
pub mod storm;
pub mod vectors;
pub mod watchdog;
