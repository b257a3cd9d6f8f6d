//! Logs and traces: `tracing` to standard error, and by OTLP to a collector if one is named.
//!
//! Trace context travels as W3C `traceparent`: [`inject`] writes it into an outgoing request, [`follow`] makes a span a
//! child of an incoming one. [`TracePoint`] hangs measured intervals on a request's span from other threads.

#[cfg(feature = "server")]
mod args;
mod point;
mod propagation;
#[cfg(feature = "server")]
mod setup;

#[cfg(feature = "server")]
pub use args::TelemetryArgs;
pub use point::TracePoint;
pub use propagation::{child, follow, inject, is_traced, link, trace_id};
#[cfg(feature = "server")]
pub use setup::{DEFAULT_FILTER, Telemetry, TelemetryConfig, TelemetryError, init};

/// Name of the instrumentation.
const TRACER: &str = "omma";
