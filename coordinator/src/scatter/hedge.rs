//! How long to wait for one replica before a second one is asked as well.

use std::time::Duration;

use parking_lot::Mutex;

/// The share of calls that should answer before the delay passes.
const QUANTILE: f64 = 0.95;
/// A call is never hedged sooner: a second call costs as much as the first.
const LEAST: Duration = Duration::from_millis(2);
/// Nor later: waiting longer for a replica that hangs helps nobody.
const MOST: Duration = Duration::from_millis(200);
/// Before anything was measured.
const FIRST: Duration = Duration::from_millis(50);
/// How far one answer moves the estimate, relative to it.
const STEP: f64 = 0.05;

/// An estimate of a high quantile of the time to an answer, kept by stochastic approximation (Robbins and Monro, "A
/// stochastic approximation method", 1951): each answer moves it up by the quantile's share of a step or down by the
/// rest, so that it rests where that share of the answers is faster.
#[derive(Debug)]
pub(crate) struct HedgeDelay(Mutex<f64>);

impl Default for HedgeDelay {
    fn default() -> Self {
        Self(Mutex::new(FIRST.as_secs_f64()))
    }
}

impl HedgeDelay {
    /// The delay now: 2 to 200 ms.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_secs_f64(*self.0.lock())
    }

    /// An answer took `elapsed`.
    pub(crate) fn learn(&self, elapsed: Duration) {
        let mut estimate = self.0.lock();
        *estimate = moved(*estimate, elapsed.as_secs_f64());
    }
}

fn moved(estimate: f64, sample: f64) -> f64 {
    let step = STEP * estimate;
    let next = if sample > estimate { estimate + step * QUANTILE } else { estimate - step * (1.0 - QUANTILE) };
    next.clamp(LEAST.as_secs_f64(), MOST.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_near_the_95th_percentile() {
        // 1 to 100 ms in a scrambled order, many times over.
        let mut estimate = FIRST.as_secs_f64();
        for i in 0..20_000u64 {
            estimate = moved(estimate, ((i * 37) % 100 + 1) as f64 / 1e3);
        }
        assert!((0.085..0.105).contains(&estimate), "{estimate}");
    }

    #[test]
    fn stays_within_its_bounds() {
        let delay = HedgeDelay::default();
        assert_eq!(delay.now(), FIRST);
        (0..10_000).for_each(|_| delay.learn(Duration::ZERO));
        assert_eq!(delay.now(), LEAST);
        (0..10_000).for_each(|_| delay.learn(Duration::from_secs(9)));
        assert_eq!(delay.now(), MOST);
    }
}
