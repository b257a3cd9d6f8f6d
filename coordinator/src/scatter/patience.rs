//! How long the replicas of a group are asked again when none of them can answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use omma_common::deadline::Deadline;
use tokio::sync::watch;
use tokio::time::Instant;

/// One may be starting, or catching up.
const MOST: Duration = Duration::from_secs(5);
/// Who accepts a partial answer waits so long for groups that nobody serves, once the others have answered.
const GRACE: Duration = Duration::from_millis(200);

/// For one group.
#[derive(Debug)]
pub(crate) struct Patience {
    deadline: Deadline,
    until: Deadline,
    others: Option<Arc<Others>>,
    /// Whether this group counts no more among those that are waited for.
    settled: bool,
}

/// The groups that one search asks.
#[derive(Debug)]
struct Others {
    /// Those that have neither answered nor been found to be served by nobody.
    open: AtomicUsize,
    /// Since when there is none of them.
    settled: watch::Sender<Option<Instant>>,
}

impl Patience {
    /// Calls have until `deadline`; the replicas are asked again for [`MOST`].
    pub(crate) fn alone(deadline: Deadline) -> Self {
        Self { deadline, until: deadline.within(MOST), others: None, settled: true }
    }

    /// For each of `groups` that are asked together: also, no longer than [`GRACE`] after all have either answered or
    /// shown that nobody serves them.
    pub(crate) fn together(deadline: Deadline, groups: usize) -> Vec<Self> {
        let others = Arc::new(Others { open: AtomicUsize::new(groups), settled: watch::Sender::new(None) });
        let one = |_| Self { others: Some(others.clone()), settled: false, ..Self::alone(deadline) };
        (0..groups).map(one).collect()
    }

    /// When a call has to end.
    pub(crate) fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// None of the replicas could answer: runs `pause`, which is given a deadline and says whether to ask again; for as
    /// long as there is patience.
    pub(super) async fn after_failure<F: Future<Output = bool>>(&mut self, pause: impl FnOnce(Deadline) -> F) -> bool {
        self.settle();
        let (pause, until) = (pause(self.until), self.until);
        tokio::select! {
            again = pause => again,
            () = tokio::time::sleep_until(until.instant()) => false,
            () = self.end_of_grace() => false,
        }
    }

    fn settle(&mut self) {
        if !std::mem::replace(&mut self.settled, true)
            && let Some(others) = &self.others
            && others.open.fetch_sub(1, Ordering::AcqRel) == 1
        {
            others.settled.send_replace(Some(Instant::now()));
        }
    }

    async fn end_of_grace(&self) {
        let Some(others) = &self.others else { return std::future::pending().await };
        let mut settled = others.settled.subscribe();
        let since = settled.wait_for(Option::is_some).await.map(|since| *since);
        // The sender lives as long as `self`.
        if let Ok(Some(since)) = since {
            tokio::time::sleep_until(since + GRACE).await;
        }
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.settle();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails over and over; returns after how long patience was over.
    async fn fails(mut patience: Patience) -> Duration {
        let begun = Instant::now();
        let pause = |until: Deadline| async move {
            tokio::time::sleep(Duration::from_millis(10)).await;
            !until.passed()
        };
        while patience.after_failure(pause).await {}
        begun.elapsed()
    }

    async fn answers(patience: Patience, after: Duration) {
        tokio::time::sleep(after).await;
        drop(patience);
    }

    const A_LITTLE: Duration = Duration::from_millis(300);
    /// However busy the machine is.
    const LATE: Duration = Duration::from_secs(2);

    #[tokio::test]
    async fn a_group_that_nobody_serves_is_asked_while_others_are_slow_and_a_little_longer() {
        let [one, two, three] = Patience::together(Deadline::after(MOST), 3).try_into().unwrap();
        let (dead, also_dead, ()) = tokio::join!(fails(one), fails(two), answers(three, A_LITTLE));
        for took in [dead, also_dead] {
            assert!(took >= A_LITTLE + GRACE && took < LATE, "{took:?}");
        }
    }

    #[tokio::test]
    async fn the_deadline_holds_whoever_is_waited_for() {
        let [one, two] = Patience::together(Deadline::after(A_LITTLE), 2).try_into().unwrap();
        let (dead, ()) = tokio::join!(fails(one), answers(two, LATE));
        assert!(dead >= A_LITTLE - Duration::from_millis(20) && dead < LATE, "{dead:?}");
    }
}
