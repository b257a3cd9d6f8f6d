//! Omma's coordinator: the public API, routing, fan-out and merge. It keeps no state: any number of them may serve
//! one cluster, and each may go at any time.
//!
//! Imports go one way: `api → access`, `api → {write, read, scatter} → {leader, routing} → node_client → error`; nothing imports
//! `api`.

#![forbid(unsafe_code)]

pub mod access;
mod api;
mod config;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod leader;
mod limits;
mod metrics;
mod node_client;
mod read;
mod routing;
mod scatter;
mod server;
mod vitals;
mod write;

pub use config::{AccessArgs, Args, CoordinatorConfig, Limits};
pub use limits::SizeArgs;
pub use server::{RunError, run};
