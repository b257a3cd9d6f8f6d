//! One call, from its arrival to the end of its answer, however it ends.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use tonic::{Code, Status};
use tracing::Span;

use crate::error::reason_of;
use crate::metrics::{Counter, Gauge, Histogram};

/// The numbers of one remote procedure.
#[derive(Debug)]
pub(super) struct Stats {
    pub(super) rpc: String,
    ok: Counter,
    in_flight: Gauge,
    duration: Histogram,
}

impl Stats {
    pub(super) fn new(rpc: &str) -> Self {
        Self {
            ok: super::REQUESTS.with(&[rpc, name_of(Code::Ok)]),
            in_flight: super::IN_FLIGHT.with(&[rpc]),
            duration: super::DURATION.with(&[rpc]),
            rpc: rpc.to_owned(),
        }
    }

    #[cfg(test)]
    pub(super) fn in_flight(&self) -> i64 {
        self.in_flight.get()
    }
}

/// A call under way.
#[derive(Debug)]
pub(super) struct Call {
    stats: Arc<Stats>,
    pub(super) span: Span,
    begun: Instant,
    ended: bool,
}

impl Call {
    pub(super) fn begin(stats: Arc<Stats>, span: Span) -> Self {
        stats.in_flight.add(1);
        Self { stats, span, begun: Instant::now(), ended: false }
    }

    /// Ends with what these headers or trailers say; false if they say nothing.
    pub(super) fn end_with(&mut self, headers: &HeaderMap) -> bool {
        match headers.get("grpc-status").map(|code| code.as_bytes()) {
            None => return false,
            Some(b"0") => self.end(None),
            Some(_) => match Status::from_header_map(headers) {
                Some(status) => self.end(Some(&status)),
                None => self.end(Some(&Status::unknown(""))),
            },
        }
        true
    }

    pub(super) fn end(&mut self, failure: Option<&Status>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        self.stats.in_flight.add(-1);
        self.stats.duration.took(self.begun.elapsed());
        let Some(status) = failure else { return self.stats.ok.inc() };
        let (rpc, reason) = (self.stats.rpc.as_str(), reason_of(status).map_or("NONE", |r| r.name()));
        super::REQUESTS.with(&[rpc, name_of(status.code())]).inc();
        super::ERRORS.with(&[rpc, reason]).inc();
        self.span.record("otel.status_code", "ERROR");
        self.span.record("reason", reason);
    }
}

impl Drop for Call {
    /// Nobody waits for the rest any more.
    fn drop(&mut self) {
        self.end(Some(&Status::cancelled("")));
    }
}

/// As gRPC's documents write it.
fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
