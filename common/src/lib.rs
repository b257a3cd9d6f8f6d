//! What every Omma process shares.
//!
//! Pure: [`ids`], [`slot`], [`vector`], [`topk`], [`session`]. At the edge: [`error`], [`deadline`], [`retry`],
//! [`shutdown`], and with the feature `server` [`telemetry`].

#![forbid(unsafe_code)]

pub mod deadline;
pub mod error;
pub mod ids;
pub mod limits;
pub mod retry;
pub mod session;
pub mod shutdown;
pub mod slot;
#[cfg(feature = "server")]
pub mod telemetry;
pub mod topk;
pub mod vector;
