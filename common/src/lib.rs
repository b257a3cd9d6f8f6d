//! What every Omma process shares.
//!
//! Pure: [`ids`], [`slot`], [`vector`], [`topk`], [`session`], [`cache`]. At the edge: [`error`], [`deadline`],
//! [`retry`], [`shutdown`], with the feature `tls` `tls`, with `server` `serve` and `telemetry`, with `fetch` `fetch`.

#![forbid(unsafe_code)]

pub mod cache;
pub mod deadline;
pub mod error;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod ids;
pub mod limits;
pub mod retry;
#[cfg(feature = "server")]
pub mod serve;
pub mod session;
pub mod shutdown;
pub mod slot;
#[cfg(feature = "server")]
pub mod telemetry;
#[cfg(feature = "tls")]
pub mod tls;
pub mod topk;
pub mod vector;
