//! How many lines the log gets of what strangers can make happen: with a line for each time, they could fill the disk.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// Lines of one kind: so many at once, and so many a second.
const LINES: f64 = 20.0;

/// Bounds the lines of one kind of event; those that get none are counted. Usually a static beside what logs them.
#[derive(Debug)]
pub struct LogLimit(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Lines that may be written now.
    left: f64,
    /// When that was so.
    at: Option<Instant>,
    skipped: u64,
}

/// A line that may be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Line {
    /// As many of its kind before it were left out; `None` if none was. To be written with it, as the field `skipped`.
    pub skipped: Option<u64>,
}

impl Default for LogLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl LogLimit {
    /// Nothing was written yet.
    pub const fn new() -> Self {
        Self(Mutex::new(State { left: LINES, at: None, skipped: 0 }))
    }

    /// Whether an event of this kind gets a line now.
    pub fn line(&self) -> Option<Line> {
        self.line_at(Instant::now())
    }

    fn line_at(&self, now: Instant) -> Option<Line> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let past = state.at.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64());
        state.left = (state.left + past * LINES).min(LINES);
        state.at = Some(now);
        if state.left < 1.0 {
            state.skipped += 1;
            return None;
        }
        state.left -= 1.0;
        let skipped = std::mem::take(&mut state.skipped);
        Some(Line { skipped: (skipped > 0).then_some(skipped) })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_flood_is_a_few_lines_that_count_it() {
        let (limit, begin) = (LogLimit::new(), Instant::now());
        let lines = |now| (0..1000).filter_map(|_| limit.line_at(now)).map(|line| line.skipped).collect::<Vec<_>>();
        assert_eq!(lines(begin), [None; 20]);
        let later = lines(begin + Duration::from_millis(510));
        assert_eq!((later.len(), later[0]), (10, Some(980)));
        assert!(later[1..].iter().all(Option::is_none));
        assert_eq!(lines(begin + Duration::from_secs(3600)).len(), 20);
    }
}
