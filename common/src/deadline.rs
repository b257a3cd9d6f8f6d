//! Deadlines: come from the caller's `grpc-timeout`, shrink on the way down.

use std::time::Duration;

use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use crate::error::{ApiError, Reason};
use crate::limits::DEFAULT_DEADLINE_SECONDS;

/// When an answer is of no more use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `timeout` from now.
    pub fn after(timeout: Duration) -> Self {
        Self(Instant::now() + timeout)
    }

    /// The caller's (`grpc-timeout`), or 30 s from now, whichever is sooner.
    pub fn of(metadata: &MetadataMap) -> Self {
        let most = Duration::from_secs(DEFAULT_DEADLINE_SECONDS);
        let asked = metadata.get("grpc-timeout").and_then(|v| v.to_str().ok()).and_then(parse_timeout);
        Self::after(asked.map_or(most, |t| t.min(most)))
    }

    /// Time left; zero once it has passed.
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn passed(self) -> bool {
        self.left().is_zero()
    }

    /// This deadline, or `timeout` from now if that is sooner.
    pub fn within(self, timeout: Duration) -> Self {
        self.min(Self::after(timeout))
    }

    /// The instant itself.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// `message` as a request that must be answered by then: sets `grpc-timeout`, and the trace that it belongs to.
    pub fn request<T>(self, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        request.set_timeout(self.left());
        #[cfg(feature = "trace")]
        crate::telemetry::inject(request.metadata_mut());
        request
    }

    /// Runs `work`, for as long as there is time. On the heap: calls that wait within calls would otherwise contain each
    /// other several times over, and be copied with each.
    pub fn run<T, F>(self, what: &str, work: F) -> impl Future<Output = Result<T, ApiError>> + use<'_, T, F>
    where
        F: Future<Output = T>,
    {
        let timed = tokio::time::timeout_at(self.0, Box::pin(work));
        async move {
            let late = |_| ApiError::new(Reason::DeadlineExceeded, format!("{what} was not done before the deadline"));
            timed.await.map_err(late)
        }
    }
}

/// gRPC's `TimeoutValue TimeoutUnit`: at most 8 digits, then one of H M S m u n.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_grpc_timeouts() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("5S"), Some(Duration::from_secs(5)));
        for bad in ["", "S", "5", "-5S", "123456789S", "5s", "é"] {
            assert_eq!(parse_timeout(bad), None, "{bad}");
        }
    }

    #[test]
    fn shrinks_only() {
        let d = Deadline::after(Duration::from_secs(1));
        assert_eq!(d.within(Duration::from_secs(9)), d);
        assert!(d.within(Duration::from_millis(1)) < d);
    }
}
