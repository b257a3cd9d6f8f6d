//! Work that can wait, at nobody's expense: after every stretch it rests as long as that took, and much longer if it
//! had to wait for a core or a lock, since then it had taken both from somebody.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// On the processor for less of a stretch than this: others want it too.
const FREE: f64 = 0.9;
/// How many times as long as the stretch the rest is then: a twentieth of one core is left.
const BUSY_RESTS: u32 = 19;

/// A stretch of work of one thread.
pub(super) struct Stretch {
    begun: Instant,
    processor: Duration,
}

impl Stretch {
    pub(super) fn begin() -> Self {
        Self { begun: Instant::now(), processor: processor_time() }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// How long to rest after it. `busy`: its own thread has better to do.
    pub(super) fn rest(self, busy: bool) -> Duration {
        rest(self.begun.elapsed(), processor_time().saturating_sub(self.processor), busy)
    }
}

fn rest(elapsed: Duration, worked: Duration, busy: bool) -> Duration {
    match busy || worked < elapsed.mul_f64(FREE) {
        true => elapsed * BUSY_RESTS,
        false => elapsed,
    }
}

/// Of this thread, so far.
fn processor_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_long_when_others_were_in_line() {
        let ms = Duration::from_millis;
        assert_eq!(rest(ms(20), ms(20), false), ms(20));
        assert_eq!(rest(ms(20), ms(10), false), ms(380));
        assert_eq!(rest(ms(20), ms(20), true), ms(380));
    }

    #[test]
    fn a_stretch_spent_waiting_is_followed_by_a_long_rest() {
        let stretch = Stretch::begin();
        std::thread::sleep(Duration::from_millis(5));
        let elapsed = stretch.elapsed();
        assert!(stretch.rest(false) >= elapsed * BUSY_RESTS);
    }
}
