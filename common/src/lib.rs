//! What every Omma process shares.
//!
//! Pure: [`ids`], [`slot`], [`vector`], [`topk`], [`session`], [`cache`]. At the edge: [`error`], [`deadline`],
//! [`retry`], [`shutdown`], [`log_limit`]. With the feature `tls` `tls`, with `trace` `telemetry`, with `server` also `serve`, `metrics`,
//! `rpc` and `admin`, with `fetch` `fetch`.

#![forbid(unsafe_code)]

#[cfg(feature = "server")]
pub mod admin;
pub mod cache;
pub mod deadline;
pub mod error;
#[cfg(feature = "server")]
pub mod fair;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod ids;
pub mod limits;
pub mod log_limit;
#[cfg(feature = "server")]
pub mod metrics;
pub mod retry;
#[cfg(feature = "server")]
pub mod rpc;
#[cfg(feature = "server")]
pub mod serve;
pub mod session;
pub mod shutdown;
pub mod slot;
#[cfg(feature = "trace")]
pub mod telemetry;
#[cfg(feature = "tls")]
pub mod tls;
pub mod topk;
pub mod vector;
