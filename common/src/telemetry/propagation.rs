//! Trace context in and out, as W3C `traceparent`.

use http::HeaderMap;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::TraceContextExt;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tonic::metadata::{Ascii, MetadataKey, MetadataMap};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

struct Outgoing<'a>(&'a mut MetadataMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(key), Ok(value)) = (MetadataKey::<Ascii>::from_bytes(key.as_bytes()), value.parse()) {
            self.0.insert(key, value);
        }
    }
}

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|v| v.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Writes the current span's context into an outgoing request; nothing if it belongs to no trace.
pub fn inject(metadata: &mut MetadataMap) {
    let span = Span::current();
    if !span.is_none() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut Outgoing(metadata));
    }
}

/// Makes `span` a child of the context in an incoming request, if there is one.
pub fn follow(span: &Span, headers: &HeaderMap) {
    if is_traced(headers) {
        let context = TraceContextPropagator::new().extract(&Incoming(headers));
        // Fails only if no OpenTelemetry layer is installed: then there is nothing to link.
        let _ = span.set_parent(context);
    }
}

/// Whether a request came with a trace.
pub fn is_traced(headers: &HeaderMap) -> bool {
    headers.contains_key("traceparent")
}

/// The id of the trace that the current span belongs to, in hexadecimal.
pub fn trace_id() -> Option<String> {
    let span = Span::current();
    if span.is_none() {
        return None;
    }
    let context = span.context();
    let context = context.span().span_context().clone();
    context.is_valid().then(|| context.trace_id().to_string())
}

/// The span that `make` makes, if the current work belongs to a request; none for what a process does by itself, which
/// would begin a trace of its own each time.
pub fn child(make: impl FnOnce() -> Span) -> Span {
    if Span::current().is_none() { Span::none() } else { make() }
}

/// Lets `span`, which is no child of `other`, point to it.
pub fn link(span: &Span, other: &Span) {
    if !other.is_none() {
        let context = other.context();
        let context = context.span().span_context().clone();
        if context.is_valid() {
            span.add_link(context);
        }
    }
}
