//! Intervals of a request that are measured elsewhere: by threads that serve many requests at once.

use std::time::{Instant, SystemTime};

use opentelemetry::trace::{Span as _, SpanBuilder, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::TRACER;

/// A span of a request that is recorded, to hang intervals on as children; nothing for all other requests, which is
/// what most are. Cheap to clone and to send.
#[derive(Debug, Clone, Default)]
pub struct TracePoint(Option<Context>);

impl TracePoint {
    /// The current span.
    pub fn here() -> Self {
        let span = Span::current();
        if span.is_none() {
            return Self(None);
        }
        let context = span.context();
        let sampled = context.span().span_context().is_sampled();
        Self(sampled.then_some(context))
    }

    /// Whether anybody records it.
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Records `from` to `to` as a child named `name`.
    pub fn interval(&self, name: &'static str, from: Instant, to: Instant, facts: &[(&'static str, i64)]) {
        let Some(context) = &self.0 else { return };
        let now = (Instant::now(), SystemTime::now());
        let at = |instant: Instant| now.1 - now.0.saturating_duration_since(instant);
        let facts = facts.iter().map(|(name, value)| KeyValue::new(*name, *value));
        let builder = SpanBuilder::from_name(name).with_start_time(at(from)).with_attributes(facts);
        global::tracer(TRACER).build_with_context(builder, context).end_with_timestamp(at(to));
    }
}
