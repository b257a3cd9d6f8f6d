//! Logs and traces: `tracing` to standard error, and by OTLP to a collector if one is named.
//!
//! Trace context travels as W3C `traceparent`: [`inject`] writes it into an outgoing request, [`link`] makes the
//! current span a child of an incoming one.

use std::io::IsTerminal;

use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tonic::metadata::{Ascii, KeyRef, MetadataKey, MetadataMap};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// What is logged unless somebody asks for something else: Omma's own doings. What the engines say of theirs is for those
/// who look for a fault.
pub const DEFAULT_FILTER: &str = "info,openraft=error,ort=warn";

/// What to log and where to send traces.
#[derive(Debug, Clone, Default)]
pub struct TelemetryConfig {
    /// `service.name` of the traces.
    pub service: &'static str,
    /// A `tracing` filter, such as `info` or `omma_shard=debug`.
    pub filter: String,
    /// Logs as JSON, one object a line.
    pub json: bool,
    /// OTLP/gRPC endpoint, such as `http://collector:4317`. None: no traces are exported.
    pub otlp_endpoint: Option<String>,
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

    let provider = config.otlp_endpoint.as_deref().map(|endpoint| exporter(config.service, endpoint)).transpose()?;
    let traces = provider.as_ref().map(|p| tracing_opentelemetry::layer().with_tracer(p.tracer("omma")));
    tracing_subscriber::registry()
        .with(traces)
        .with(logs.with_filter(filter))
        .try_init()
        .map_err(|_| TelemetryError::Twice)?;
    Ok(Telemetry(provider))
}

fn exporter(service: &'static str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .build()
        .map_err(|e| TelemetryError::Otlp { endpoint: endpoint.to_owned(), reason: e.to_string() })?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(Resource::builder().with_service_name(service).build())
        .build())
}

struct Outgoing<'a>(&'a mut MetadataMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::<Ascii>::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

struct Incoming<'a>(&'a MetadataMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().filter_map(|k| if let KeyRef::Ascii(k) = k { Some(k.as_str()) } else { None }).collect()
    }
}

/// Writes the current span's context into an outgoing request.
pub fn inject(metadata: &mut MetadataMap) {
    let context = tracing::Span::current().context();
    TraceContextPropagator::new().inject_context(&context, &mut Outgoing(metadata));
}

/// Makes `span` a child of the context in an incoming request, if there is one.
pub fn link(span: &tracing::Span, metadata: &MetadataMap) {
    let context = TraceContextPropagator::new().extract(&Incoming(metadata));
    // Fails only if no OpenTelemetry layer is installed: then there is nothing to link.
    let _ = span.set_parent(context);
}
