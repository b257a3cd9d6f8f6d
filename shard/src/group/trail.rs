//! The way of a traced proposal through the log: what is measured for many proposals at once, shown in each one's trace.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use omma_common::telemetry::TracePoint;

/// Goes along with a command through Raft, in this process only; nothing unless somebody records the trace.
#[derive(Debug, Clone, Default)]
pub(super) struct Trail(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    point: TracePoint,
    proposed: Instant,
    durable: OnceLock<Instant>,
}

/// No part of a command's meaning.
impl PartialEq for Trail {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Trail {}

/// One flush of the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flushed {
    pub(super) begun: Instant,
    pub(super) done: Instant,
    /// Entries that it made durable.
    pub(super) entries: u64,
}

impl Trail {
    /// Of a proposal that the current span makes.
    pub(super) fn here() -> Self {
        let point = TracePoint::here();
        let recorded = point.is_recorded();
        let inner = || Arc::new(Inner { point, proposed: Instant::now(), durable: OnceLock::new() });
        Self(recorded.then(inner))
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Its entry was given to the log at `appended` and is on disk.
    pub(super) fn flushed(&self, appended: Instant, flush: Flushed) {
        let Some(inner) = &self.0 else { return };
        inner.point.interval("raft append", inner.proposed, appended, &[]);
        inner.point.interval("log queue", appended, flush.begun, &[]);
        inner.point.interval("log fsync", flush.begun, flush.done, &[("entries", flush.entries as i64)]);
        // Only the first counts; there is no second.
        let _ = inner.durable.set(flush.done);
    }

    /// It was applied together with others.
    pub(super) fn applied(&self, begun: Instant, done: Instant, entries: usize) {
        let Some(inner) = &self.0 else { return };
        // A majority of others may have been faster than this replica's own disk.
        if let Some(durable) = inner.durable.get() {
            inner.point.interval("raft commit", *durable, begun, &[]);
        }
        inner.point.interval("apply", begun, done, &[("entries", entries as i64)]);
    }
}
