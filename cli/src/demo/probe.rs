//! Something done over and over while the cluster is hurt, and the longest time in which it did not succeed.

use std::time::Duration;

use omma_client::ClientError;
use omma_common::shutdown::Shutdown;
use tokio::time::Instant;

/// Successes and failures over time.
#[derive(Debug, Clone)]
pub(super) struct Gaps {
    last_success: Instant,
    pub(super) successes: u64,
    pub(super) failures: u64,
    /// The longest time from one success to the next.
    pub(super) longest: Duration,
    pub(super) last_error: Option<String>,
}

impl Gaps {
    /// Counts from now on.
    pub(super) fn new(now: Instant) -> Self {
        Self { last_success: now, successes: 0, failures: 0, longest: Duration::ZERO, last_error: None }
    }

    pub(super) fn succeeded(&mut self, now: Instant) {
        self.successes += 1;
        self.longest = self.longest.max(now - self.last_success);
        self.last_success = now;
    }

    pub(super) fn failed(&mut self, error: &ClientError) {
        self.failures += 1;
        self.last_error = Some(error.to_string());
    }

    /// At the end: a last stretch without success counts too.
    pub(super) fn finish(mut self, now: Instant) -> Self {
        self.longest = self.longest.max(now - self.last_success);
        self
    }
}

/// Between two tries after a failure: failures come at once, and must not take the machine.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(5);
/// Between two tries otherwise.
const PAUSE: Duration = Duration::from_millis(2);

/// Does `work` again and again until `stop`.
pub(super) async fn probe<F, R, T>(stop: Shutdown, mut work: F) -> Gaps
where
    F: FnMut() -> R,
    R: Future<Output = Result<T, ClientError>>,
{
    let mut gaps = Gaps::new(Instant::now());
    while !stop.has_begun() {
        let outcome = work().await;
        let pause = match &outcome {
            Ok(_) => PAUSE,
            Err(_) => PAUSE_AFTER_FAILURE,
        };
        match outcome {
            Ok(_) => gaps.succeeded(Instant::now()),
            Err(error) => gaps.failed(&error),
        }
        tokio::time::sleep(pause).await;
    }
    gaps.finish(Instant::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_is_between_successes() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut gaps = Gaps::new(start);
        gaps.succeeded(at(10));
        gaps.failed(&tonic::Status::unavailable("x").into());
        gaps.succeeded(at(310));
        gaps.succeeded(at(320));
        assert_eq!((gaps.successes, gaps.failures, gaps.longest), (3, 1, Duration::from_millis(300)));
        assert_eq!(gaps.finish(at(1320)).longest, Duration::from_secs(1));
    }
}
