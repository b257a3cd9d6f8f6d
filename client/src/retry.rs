//! When a failed call is tried again: a pure decision.

use std::time::Duration;

use tonic::Code;

use crate::error::{ClientError, Origin};

/// Whether doing a call twice is the same as doing it once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeatable {
    /// A read, or a write with a request id.
    Yes,
    /// A write without one.
    No,
}

/// Whether a retry may help, and the least wait before it.
///
/// A server says so by `RetryInfo`. A broken connection says nothing; the next one may work.
pub(crate) fn wait_before_retry(error: &ClientError) -> Option<Duration> {
    if error.origin() == Origin::Transport {
        return Some(Duration::ZERO);
    }
    match error.code() {
        Code::Unavailable | Code::ResourceExhausted | Code::Aborted => error.retry_after(),
        _ => None,
    }
}

/// How long to wait before the next try; `None`: give up. `tries` have been made, `limit` may be;
/// `backoff` is the wait that this try would have by itself; `left` is what the deadline leaves.
pub(crate) fn decide(
    error: &ClientError,
    repeatable: Repeatable,
    tries: u32,
    limit: u32,
    backoff: Duration,
    left: Duration,
) -> Option<Duration> {
    if repeatable == Repeatable::No || tries >= limit {
        return None;
    }
    let wait = wait_before_retry(error)?.max(backoff);
    (wait < left).then_some(wait)
}

#[cfg(test)]
mod tests {
    use omma_common::error::{ApiError, Reason};
    use tonic::Status;

    use super::*;
    use crate::error::Failure;

    const BACKOFF: Duration = Duration::from_millis(10);
    const LONG: Duration = Duration::from_secs(10);

    fn of(reason: Reason) -> ClientError {
        ApiError::new(reason, "x").to_status().into()
    }

    #[test]
    fn only_what_a_retry_can_help_is_tried_again() {
        for &reason in Reason::ALL {
            let error = of(reason);
            let expected = error.retry_after().map(|hint| hint.max(BACKOFF));
            assert_eq!(decide(&error, Repeatable::Yes, 1, 3, BACKOFF, LONG), expected, "{reason:?}");
            assert_eq!(decide(&error, Repeatable::No, 1, 3, BACKOFF, LONG), None, "{reason:?}");
        }
        let without_hint = ClientError::from(Status::unavailable("from a proxy"));
        assert_eq!(decide(&without_hint, Repeatable::Yes, 1, 3, BACKOFF, LONG), None);
    }

    #[test]
    fn broken_connections_are_tried_again() {
        let error = ClientError::transport(Failure::Broken, "gone");
        assert_eq!(decide(&error, Repeatable::Yes, 1, 3, BACKOFF, LONG), Some(BACKOFF));
        assert_eq!(decide(&error, Repeatable::No, 1, 3, BACKOFF, LONG), None);
    }

    #[test]
    fn tries_and_time_are_bounded() {
        let error = of(Reason::Overloaded);
        assert_eq!(decide(&error, Repeatable::Yes, 3, 3, BACKOFF, LONG), None);
        assert_eq!(decide(&error, Repeatable::Yes, 1, 3, BACKOFF, Duration::from_millis(99)), None);
    }
}
