//! How long pictures keep the encoder busy, lately: what a picture that comes now would wait.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Of both pools: the slower one decides how fast lines move, unless both take the same cores.
pub(super) struct Pace {
    decoders: usize,
    workers: usize,
    shared_cores: bool,
    decode_nanos: AtomicU64,
    infer_nanos: AtomicU64,
}

impl Pace {
    /// Of pools of so many threads. `shared_cores`: the decoders' are as many as there are cores, for both.
    pub(super) fn new(decoders: usize, workers: usize, shared_cores: bool) -> Self {
        Self { decoders, workers, shared_cores, decode_nanos: AtomicU64::new(0), infer_nanos: AtomicU64::new(0) }
    }

    /// A picture was decoded.
    pub(super) fn decoded(&self, took: Duration) {
        note(&self.decode_nanos, took);
    }

    /// A picture went through the model; `took`: its share of its batch.
    pub(super) fn inferred(&self, took: Duration) {
        note(&self.infer_nanos, took);
    }

    /// How long a picture waits that has `ahead` others before it.
    pub(super) fn wait(&self, ahead: usize) -> Duration {
        let per = |nanos: &AtomicU64, threads: usize| nanos.load(Ordering::Relaxed) / threads.max(1) as u64;
        let one = match self.shared_cores {
            true => per(&self.decode_nanos, self.decoders) + per(&self.infer_nanos, self.decoders),
            false => per(&self.decode_nanos, self.decoders).max(per(&self.infer_nanos, self.workers)),
        };
        Duration::from_nanos(one.saturating_mul(ahead as u64))
    }
}

/// A moving average; that two threads may overwrite each other's share does not matter.
fn note(average: &AtomicU64, took: Duration) {
    let (old, new) = (average.load(Ordering::Relaxed), u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
    let mixed = if old == 0 { new } else { old - old / 8 + new / 8 };
    average.store(mixed, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slower_pool_sets_the_pace() {
        let (pace, millis) = (Pace::new(4, 2, false), Duration::from_millis);
        assert_eq!(pace.wait(9), Duration::ZERO);
        pace.decoded(millis(8));
        assert_eq!(pace.wait(3), millis(6));
        pace.inferred(millis(10));
        assert_eq!(pace.wait(3), millis(15));
        (0..60).for_each(|_| pace.decoded(millis(40)));
        assert!((millis(29)..=millis(30)).contains(&pace.wait(3)), "{:?}", pace.wait(3));
    }

    #[test]
    fn on_shared_cores_both_count() {
        let (pace, millis) = (Pace::new(2, 2, true), Duration::from_millis);
        pace.decoded(millis(4));
        pace.inferred(millis(10));
        assert_eq!(pace.wait(3), millis(21));
    }
}
