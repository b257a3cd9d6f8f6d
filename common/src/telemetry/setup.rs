//! Setting up logs and traces, once per process.

use std::io::IsTerminal;

use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::Level;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::TRACER;

/// What is logged unless somebody asks for something else: Omma's own doings. What the engines say of theirs is for those
/// who look for a fault.
pub const DEFAULT_FILTER: &str = "info,openraft=error,ort=warn,opentelemetry=warn";

/// What to log and where to send traces.
#[derive(Debug, Clone)]
pub struct TelemetryConfig {
    /// `service.name` of the traces.
    pub service: &'static str,
    /// A `tracing` filter, such as `info` or `omma_shard=debug`.
    pub filter: String,
    /// Logs as JSON, one object a line.
    pub json: bool,
    /// OTLP/gRPC endpoint, such as `http://collector:4317`. None: no traces are exported.
    pub otlp_endpoint: Option<String>,
    /// Share of the traces that begin here which are recorded, 0 to 1. One that came with a request is recorded if its
    /// sender records it.
    pub sample: f64,
}

/// Telemetry could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("the log filter {filter:?} is not valid: {source}")]
    Filter {
        /// As given.
        filter: String,
        /// Why.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The OTLP exporter could not be built.
    #[error("cannot export traces to {endpoint}: {reason}")]
    Otlp {
        /// As given.
        endpoint: String,
        /// Why.
        reason: String,
    },
    /// Something else has set a global subscriber.
    #[error("logging is set up already")]
    Twice,
}

/// Keeps telemetry running; flushes when dropped.
#[derive(Debug)]
#[must_use = "traces are flushed when this is dropped"]
pub struct Telemetry(Option<SdkTracerProvider>);

impl Telemetry {
    /// Sends what is recorded so far. Blocks.
    pub fn flush(&self) {
        if let Some(provider) = &self.0 {
            // Nobody is left to tell.
            let _ = provider.force_flush();
        }
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(provider) = self.0.take() {
            // Nobody is left to tell.
            let _ = provider.shutdown();
        }
    }
}

/// Sets up logging and tracing for this process. Needs a tokio runtime.
pub fn init(config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_new(&config.filter)
        .map_err(|source| TelemetryError::Filter { filter: config.filter.clone(), source })?;
    // Colours are for people, not for files.
    let plain =
        tracing_subscriber::fmt::layer().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let logs = if config.json { plain.json().boxed() } else { plain.boxed() };

    let provider = config.otlp_endpoint.as_deref().map(|endpoint| exporter(config, endpoint)).transpose()?;
    let traces = provider.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer(TRACER)));
    // The spans of the transport underneath are many, and say nothing of Omma.
    let ours = filter_fn(|m| m.target().starts_with("omma") && (m.is_span() || *m.level() <= Level::WARN));
    tracing_subscriber::registry()
        .with(traces.with_filter(ours))
        .with(logs.with_filter(filter))
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    if let Some(provider) = &provider {
        opentelemetry::global::set_tracer_provider(provider.clone());
    }
    Ok(Telemetry(provider))
}

fn exporter(config: &TelemetryConfig, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|e| TelemetryError::Otlp { endpoint: endpoint.to_owned(), reason: e.to_string() })?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample))))
        .with_resource(Resource::builder().with_service_name(config.service).build())
        .build())
}
