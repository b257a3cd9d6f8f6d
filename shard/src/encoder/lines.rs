//! A queue between threads that is fair: each client waits in a line of its own, and whoever has the least at work is
//! served next.
//!
//! So whoever sends a thousand pictures waits for its own thousand; who sends one waits for a thread. One client's
//! entries never keep more threads busy than may be one client's, and one less for as long as others are served too: who
//! comes back within a second finds a core that a flood leaves alone.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

/// How long a client that was served counts as one of those who share the threads.
const SHARING: Duration = Duration::from_secs(1);

/// Whose pictures wait together: a client, and what it wants them for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Line {
    /// Of the client; any number that tells it from others.
    pub client: u64,
    /// Somebody waits for the answer: a query, not a write.
    pub urgent: bool,
}

impl Line {
    /// Where clients are not told apart.
    pub const COMMON: Self = Self { client: 0, urgent: false };
}

pub(super) struct Lines<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// Told when entries were taken.
    taken: Condvar,
    /// Entries of one client that may be at work at once.
    most_of_one: usize,
}

struct State<T> {
    /// None is empty.
    lines: HashMap<Line, Waiting<T>>,
    /// Each of the lines once; of those whose clients have as much at work, the first is served next.
    turns: VecDeque<Line>,
    /// Entries of each client that were taken and are not done. None is zero.
    at_work: HashMap<u64, usize>,
    served: Served,
    closed: bool,
}

/// When clients were served last: whoever was, and whoever is not the same.
#[derive(Debug, Default)]
struct Served {
    last: Option<(u64, Instant)>,
    before: Option<Instant>,
}

impl Served {
    fn mark(&mut self, client: u64, now: Instant) {
        if let Some((other, at)) = self.last
            && other != client
        {
            self.before = Some(at);
        }
        self.last = Some((client, now));
    }

    /// Whether one other than `client` shares the threads.
    fn others(&self, client: u64, now: Instant) -> bool {
        let last = match self.last {
            Some((other, at)) if other != client => Some(at),
            _ => self.before,
        };
        last.is_some_and(|at| now.saturating_duration_since(at) < SHARING)
    }
}

struct Waiting<T> {
    entries: VecDeque<T>,
    /// Since when there was always one.
    since: Instant,
}

/// What a new entry of a line would meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Outlook {
    /// Entries that would be served before it, at most.
    pub ahead: usize,
    /// How long its line has not been empty.
    pub standing: Duration,
}

impl<T> State<T> {
    fn new() -> Self {
        Self {
            lines: HashMap::new(),
            turns: VecDeque::new(),
            at_work: HashMap::new(),
            served: Served::default(),
            closed: false,
        }
    }

    /// Takes the entry whose turn it is, if one may be taken. Of one client, `most_of_one` may be at work; one less, but
    /// one at least, if others were served lately.
    fn take(&mut self, most_of_one: usize, now: Instant) -> Option<(Line, T)> {
        let most = |line: &Line| match self.served.others(line.client, now) {
            true => most_of_one.saturating_sub(1).max(1),
            false => most_of_one,
        };
        let all = self.turns.iter().enumerate().map(|(at, line)| (self.busy(line), at, line));
        let (_, at, _) = all.filter(|(busy, _, line)| *busy < most(line)).min_by_key(|(busy, at, _)| (*busy, *at))?;
        let line = self.turns.remove(at)?;
        let waiting = self.lines.get_mut(&line)?;
        let entry = waiting.entries.pop_front()?;
        match waiting.entries.is_empty() {
            true => drop(self.lines.remove(&line)),
            false => self.turns.push_back(line),
        }
        *self.at_work.entry(line.client).or_default() += 1;
        self.served.mark(line.client, now);
        Some((line, entry))
    }

    /// Entries of a line's client that are at work.
    fn busy(&self, line: &Line) -> usize {
        self.at_work.get(&line.client).copied().unwrap_or(0)
    }

    fn waiting(&self, line: Line) -> usize {
        self.lines.get(&line).map_or(0, |waiting| waiting.entries.len())
    }

    fn all_waiting(&self) -> usize {
        self.lines.values().map(|waiting| waiting.entries.len()).sum()
    }
}

impl<T> Lines<T> {
    /// Of one client at most `most_of_one` entries are at work at once.
    pub(super) fn new(most_of_one: usize) -> Self {
        Self { state: Mutex::new(State::new()), changed: Condvar::new(), taken: Condvar::new(), most_of_one }
    }

    /// Adds `entry` at the end of `line`, once fewer than `most` wait or none of that line does; drops it if the queue
    /// is closed.
    pub(super) fn push(&self, line: Line, entry: T, most: usize) {
        let mut state = self.state.lock();
        self.taken.wait_while(&mut state, |s| s.all_waiting() >= most && s.waiting(line) > 0 && !s.closed);
        if state.closed {
            return;
        }
        let State { lines, turns, .. } = &mut *state;
        let waiting = lines.entry(line).or_insert_with(|| {
            turns.push_back(line);
            Waiting { entries: VecDeque::new(), since: Instant::now() }
        });
        waiting.entries.push_back(entry);
        self.changed.notify_one();
    }

    /// Waits for an entry that may be taken, then takes up to `most` of them. If fewer are there, gives more of them
    /// `gather` to come. Each is at work until it is [`Lines::done`]. `None` once the queue is closed.
    pub(super) fn pop(&self, most: usize, gather: Duration) -> Option<Vec<(Line, T)>> {
        let mut state = self.state.lock();
        let first = loop {
            if state.closed {
                return None;
            }
            match state.take(self.most_of_one, Instant::now()) {
                Some(first) => break first,
                None if state.turns.is_empty() => self.changed.wait(&mut state),
                // What waits may be taken once the others have been gone for long enough.
                None => drop(self.changed.wait_for(&mut state, SHARING)),
            }
        };
        let (mut batch, end) = (vec![first], Instant::now() + gather);
        while batch.len() < most && !state.closed {
            match state.take(self.most_of_one, Instant::now()) {
                Some(next) => batch.push(next),
                None if gather.is_zero() || self.changed.wait_until(&mut state, end).timed_out() => break,
                None => {}
            }
        }
        self.taken.notify_all();
        // While this one gathered it may have swallowed the wake-up that was meant for another.
        if !state.turns.is_empty() {
            self.changed.notify_one();
        }
        Some(batch)
    }

    /// An entry of `line` that was taken is at work no more.
    pub(super) fn done(&self, line: Line) {
        let mut state = self.state.lock();
        if let Some(busy) = state.at_work.get_mut(&line.client) {
            *busy -= 1;
            if *busy == 0 {
                state.at_work.remove(&line.client);
            }
        }
        state.served.mark(line.client, Instant::now());
        // It may have been what kept another entry of its client.
        self.changed.notify_one();
    }

    /// What a new entry of `line` would meet.
    pub(super) fn outlook(&self, line: Line) -> Outlook {
        let state = self.state.lock();
        let own = state.waiting(line);
        let place = own + state.busy(&line) + 1;
        let of = |(other, waiting): (&Line, &Waiting<T>)| match *other == line {
            true => own,
            false => waiting.entries.len().min(place.saturating_sub(state.busy(other))),
        };
        let standing = state.lines.get(&line).map_or(Duration::ZERO, |waiting| waiting.since.elapsed());
        Outlook { ahead: state.lines.iter().map(of).sum(), standing }
    }

    /// How many entries are in `line`.
    pub(super) fn waiting(&self, line: Line) -> usize {
        self.state.lock().waiting(line)
    }

    /// Takes the last entry of the longest line, if that is longer than `line`: what has to go so that `line` gets its
    /// share.
    pub(super) fn shed(&self, line: Line) -> Option<T> {
        let mut state = self.state.lock();
        let own = state.waiting(line);
        let (longest, length) =
            state.lines.iter().map(|(other, waiting)| (*other, waiting.entries.len())).max_by_key(|l| l.1)?;
        // At least two, so that it does not become empty.
        if length <= own + 1 {
            return None;
        }
        state.lines.get_mut(&longest)?.entries.pop_back()
    }

    /// Drops what waits and lets every `pop` return `None`.
    pub(super) fn close(&self) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = true;
            state.turns.clear();
            std::mem::take(&mut state.lines)
        };
        self.changed.notify_all();
        self.taken.notify_all();
        drop(dropped);
    }
}

#[cfg(test)]
#[path = "lines_tests.rs"]
mod tests;
