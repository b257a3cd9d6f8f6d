//! How many embeddings to add before searches get their turn.

use std::time::Duration;

/// How long adding may keep searches out at a stretch.
const SLICE: Duration = Duration::from_millis(4);
/// Never more at once, however quick it looks: one slow embedding must not multiply.
const MOST: usize = 512;

/// Adapts the size of a slice to how long the last ones took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pace {
    threads: usize,
    size: usize,
}

impl Pace {
    /// Starts carefully, with one embedding per thread.
    pub(super) fn new(threads: usize) -> Self {
        Self { threads, size: threads.max(1) }
    }

    /// Embeddings in the next slice.
    pub(super) fn size(self) -> usize {
        self.size
    }

    /// After a slice of `count` that took `elapsed`. Grows at most twofold, shrinks at once.
    pub(super) fn after(self, count: usize, elapsed: Duration) -> Self {
        let fits = count as f64 * SLICE.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
        let most = (2 * self.size).min(MOST);
        Self { size: (fits as usize).clamp(self.threads.max(1).min(most), most), ..self }
    }
}

/// How long to stay away after a slice: as long again when searches wait, so that they get at least half the time.
pub(super) fn rest(elapsed: Duration, searches_waiting: bool) -> Duration {
    if searches_waiting { elapsed.min(2 * SLICE) } else { Duration::ZERO }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_size_that_fits() {
        let per_item = Duration::from_micros(100);
        let mut pace = Pace::new(2);
        for _ in 0..10 {
            pace = pace.after(pace.size(), per_item * pace.size() as u32);
        }
        assert_eq!(pace.size(), 40);
        assert_eq!(pace.after(40, Duration::from_secs(1)).size(), 2);
        assert_eq!(pace.after(40, Duration::ZERO).size(), 80);
    }

    #[test]
    fn rests_only_for_others() {
        assert_eq!(rest(SLICE, false), Duration::ZERO);
        assert_eq!(rest(SLICE, true), SLICE);
        assert!(rest(Duration::from_secs(9), true) < Duration::from_millis(20));
    }
}
