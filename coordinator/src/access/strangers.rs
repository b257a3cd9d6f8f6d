//! How much is logged of callers that nobody knows: with a line for each of their refusals, they could fill the disk.

use std::time::Instant;

use parking_lot::Mutex;

/// Lines about strangers: so many at once, and so many a second.
const LINES: f64 = 20.0;

/// What was logged of them lately.
#[derive(Debug)]
pub(super) struct Strangers(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Lines that may be written now.
    left: f64,
    at: Instant,
    skipped: u64,
}

impl Default for Strangers {
    fn default() -> Self {
        Self(Mutex::new(State { left: LINES, at: Instant::now(), skipped: 0 }))
    }
}

impl Strangers {
    /// Whether a refusal gets a line; if so, how many before it got none.
    pub(super) fn line(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock();
        let past = now.saturating_duration_since(state.at).as_secs_f64();
        state.left = (state.left + past * LINES).min(LINES);
        state.at = now;
        if state.left < 1.0 {
            state.skipped += 1;
            return None;
        }
        state.left -= 1.0;
        Some(std::mem::take(&mut state.skipped))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_of_strangers_is_a_few_lines_that_count_it() {
        let (strangers, begin) = (Strangers::default(), Instant::now());
        let lines = |now| (0..1000).filter_map(|_| strangers.line(now)).collect::<Vec<_>>();
        assert_eq!(lines(begin), [0; 20]);
        let later = lines(begin + Duration::from_millis(510));
        assert_eq!((later.len(), later[0]), (10, 980));
        assert!(later[1..].iter().all(|skipped| *skipped == 0));
        assert_eq!(lines(begin + Duration::from_secs(3600)).len(), 20);
    }
}
