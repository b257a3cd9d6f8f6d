//! When operations are to begin: pure.

use std::time::Duration;

/// Operations one after the other, or at given moments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Schedule {
    /// Operations a second that begin whether or not earlier ones have ended (an open loop); `None`: each client begins
    /// one as soon as its last one has ended (a closed loop).
    pub(super) rate: Option<f64>,
    /// Most operations.
    pub(super) operations: Option<u64>,
    /// No operation begins later.
    pub(super) lasts: Option<Duration>,
}

impl Schedule {
    /// When operation `i` is to begin, after the start; `None`: when a client is free.
    pub(super) fn intended(&self, i: u64) -> Option<Duration> {
        self.rate.map(|rate| Duration::from_secs_f64(i as f64 / rate))
    }

    /// Whether operation `i` is part of the run, if it is asked so long after the start. In an open loop that depends on
    /// when it *should* begin: a cluster that is slow is not spared what is due.
    pub(super) fn wants(&self, i: u64, elapsed: Duration) -> bool {
        let begins = self.intended(i).unwrap_or(elapsed);
        self.operations.is_none_or(|most| i < most) && self.lasts.is_none_or(|lasts| begins < lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_open_loop_keeps_its_times() {
        let schedule = Schedule { rate: Some(200.0), operations: None, lasts: Some(SECOND) };
        assert_eq!(schedule.intended(0), Some(Duration::ZERO));
        assert_eq!(schedule.intended(150), Some(Duration::from_millis(750)));
        assert!(schedule.wants(199, SECOND * 60), "late, but it was due");
        assert!(!schedule.wants(200, Duration::ZERO));
    }

    #[test]
    fn a_closed_loop_ends_by_the_clock_or_the_count() {
        let schedule = Schedule { rate: None, operations: Some(10), lasts: Some(SECOND) };
        assert_eq!(schedule.intended(5), None);
        assert!(schedule.wants(9, SECOND / 2));
        assert!(!schedule.wants(10, SECOND / 2) && !schedule.wants(9, SECOND));
    }
}
