//! Stands in for a trace collector: takes spans by OTLP and keeps them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// One span.
#[derive(Debug, Clone)]
pub struct Span {
    /// `service.name` of the process.
    pub service: String,
    /// Its name.
    pub name: String,
    /// Hexadecimal.
    pub trace: String,
    /// Of the trace's spans.
    pub id: Vec<u8>,
    /// Empty for the first one.
    pub parent: Vec<u8>,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Likewise.
    pub end: u64,
    /// As text.
    pub attributes: Vec<(String, String)>,
}

type Spans = Arc<Mutex<Vec<Span>>>;

/// A collector on loopback. It ends when dropped.
#[derive(Debug)]
pub struct Collector {
    endpoint: String,
    spans: Spans,
    server: JoinHandle<()>,
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Service(Spans);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|v| v.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(n)) => n.to_string(),
        Some(Value::BoolValue(b)) => b.to_string(),
        _ => String::new(),
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|r| r.attributes).unwrap_or_default();
            let service = attributes.into_iter().find(|a| a.key == "service.name").map(|a| text(a.value));
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let attribute = |KeyValue { key, value, .. }| (key, text(value));
                kept.push(Span {
                    service: service.clone().unwrap_or_default(),
                    name: span.name,
                    trace: hex(&span.trace_id),
                    id: span.span_id,
                    parent: span.parent_span_id,
                    start: span.start_time_unix_nano,
                    end: span.end_time_unix_nano,
                    attributes: span.attributes.into_iter().map(attribute).collect(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let spans = Spans::default();
        let service = TraceServiceServer::new(Service(spans.clone()));
        let server = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            // It ends with the test.
            let _ = tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Ok(Self { endpoint, spans, server })
    }

    /// For `--otlp-endpoint`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `check` is content with the spans; servers send them every few seconds.
    ///
    /// # Errors
    /// What `check` last complained of, if `patience` is over.
    pub async fn wait(&self, patience: Duration, check: impl Fn(&[Span]) -> Result<()>) -> Result<Vec<Span>> {
        let begin = Instant::now();
        loop {
            let spans = self.spans();
            match check(&spans) {
                Ok(()) => return Ok(spans),
                Err(why) if begin.elapsed() > patience => bail!("after {patience:?}: {why:#}\n{}", tree(&spans)),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        }
    }
}

/// The children of `parent` with that name.
pub fn children<'s>(spans: &'s [Span], parent: &Span, name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|s| s.trace == parent.trace && s.parent == parent.id && s.name == name).collect()
}

/// All traces, indented, with the times of each span relative to its trace's first, in milliseconds.
pub fn tree(spans: &[Span]) -> String {
    let known = |s: &Span| spans.iter().any(|other| other.trace == s.trace && other.id == s.parent);
    let mut roots: Vec<&Span> = spans.iter().filter(|s| !known(s)).collect();
    roots.sort_by_key(|s| s.start);
    let mut text = String::new();
    roots.iter().for_each(|root| branch(spans, root, root.start, 0, &mut text));
    text
}

fn branch(spans: &[Span], span: &Span, zero: u64, depth: usize, text: &mut String) {
    let millis = |nanos: u64| nanos as f64 / 1e6;
    let (indent, label) = ("  ".repeat(depth), format!("{} ({})", span.name, span.service));
    let (start, took) = (millis(span.start.saturating_sub(zero)), millis(span.end.saturating_sub(span.start)));
    text.push_str(&format!("{start:9.2} {took:9.2}  {indent}{label}\n"));
    let mut below: Vec<&Span> = spans.iter().filter(|s| s.trace == span.trace && s.parent == span.id).collect();
    below.sort_by_key(|s| s.start);
    below.iter().for_each(|child| branch(spans, child, zero, depth + 1, text));
}
