//! Pictures that stream in are proposed in beats, so that those which the encoder finishes one by one share a flush of
//! the log, and wake its threads once.

use std::sync::LazyLock;
use std::time::Duration;

use omma_common::deadline::Deadline;
use tokio::time::{Instant, sleep_until};

/// Between two beats: ten flushes a second instead of one for each picture.
const BEAT: Duration = Duration::from_millis(100);
/// One clock for all groups: they share the log's writer.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Waits for the next beat, if that costs nobody anything: `backlog` is how long the encoder is busy with what the same
/// client has sent besides. Who waits for this one picture is not kept waiting.
pub(super) async fn next(backlog: Duration, deadline: Deadline) {
    let wait = pause(BEGINNING.elapsed(), backlog.min(deadline.left()));
    if !wait.is_zero() {
        sleep_until(Instant::now() + wait).await;
    }
}

/// At most half of `spare`, so that the client's next pictures are here before the encoder runs dry.
fn pause(now: Duration, spare: Duration) -> Duration {
    let since = Duration::from_nanos((now.as_nanos() % BEAT.as_nanos()) as u64);
    (BEAT - since).min(spare / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn all_wait_for_the_same_beat() {
        assert_eq!(pause(230 * MS, 1000 * MS), 70 * MS);
        assert_eq!(pause(299 * MS, 1000 * MS), MS);
        assert_eq!(pause(300 * MS, 1000 * MS), BEAT);
    }

    #[test]
    fn nobody_waits_longer_than_there_is_other_work() {
        assert_eq!(pause(230 * MS, 50 * MS), 25 * MS);
        assert_eq!(pause(230 * MS, Duration::ZERO), Duration::ZERO);
    }
}
