//! A queue between threads that is fair: each client waits in a line of its own, and the lines are served in turn.
//!
//! So whoever sends a thousand pictures waits for its own thousand; who sends one waits for one of each other line.
//! It has no bound of its own: each entry carries a permit of the encoder's semaphore, which is the bound.

use std::collections::{HashMap, VecDeque};

use parking_lot::{Condvar, Mutex};

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
}

struct State<T> {
    /// None is empty.
    lines: HashMap<Line, VecDeque<T>>,
    /// Each of the lines once; the first is served next.
    turns: VecDeque<Line>,
    closed: bool,
}

impl<T> Lines<T> {
    pub(super) fn new() -> Self {
        let state = State { lines: HashMap::new(), turns: VecDeque::new(), closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Adds `entry` at the end of `line`; drops it if the queue is closed.
    pub(super) fn push(&self, line: Line, entry: T) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        let State { lines, turns, .. } = &mut *state;
        let entries = lines.entry(line).or_default();
        if entries.is_empty() {
            turns.push_back(line);
        }
        entries.push_back(entry);
        self.changed.notify_one();
    }

    /// Waits for an entry. `None` once the queue is closed.
    pub(super) fn pop(&self) -> Option<T> {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |s| s.turns.is_empty() && !s.closed);
        let line = state.turns.pop_front()?;
        let entries = state.lines.get_mut(&line)?;
        let entry = entries.pop_front();
        match entries.is_empty() {
            true => drop(state.lines.remove(&line)),
            false => state.turns.push_back(line),
        }
        entry
    }

    /// How many entries would be served before a new one in `line`.
    pub(super) fn ahead(&self, line: Line) -> usize {
        let state = self.state.lock();
        let own = state.lines.get(&line).map_or(0, VecDeque::len);
        state.lines.iter().map(|(other, entries)| entries.len().min(if *other == line { own } else { own + 1 })).sum()
    }

    /// How many entries are in `line`.
    pub(super) fn waiting(&self, line: Line) -> usize {
        self.state.lock().lines.get(&line).map_or(0, VecDeque::len)
    }

    /// Takes the last entry of the longest line, if that is longer than `line`: what has to go so that `line` gets its
    /// share.
    pub(super) fn shed(&self, line: Line) -> Option<T> {
        let mut state = self.state.lock();
        let own = state.lines.get(&line).map_or(0, VecDeque::len);
        let (longest, length) =
            state.lines.iter().map(|(other, entries)| (*other, entries.len())).max_by_key(|l| l.1)?;
        // At least two, so that it does not become empty.
        if length <= own + 1 {
            return None;
        }
        state.lines.get_mut(&longest)?.pop_back()
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
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn line(client: u64) -> Line {
        Line { client, urgent: true }
    }

    #[test]
    fn lines_are_served_in_turn() {
        let lines = Lines::new();
        (0..4).for_each(|n| lines.push(line(1), (1, n)));
        assert_eq!((lines.ahead(line(1)), lines.ahead(line(2))), (4, 1));
        assert_eq!((lines.waiting(line(1)), lines.waiting(line(2))), (4, 0));
        lines.push(line(2), (2, 0));
        lines.push(line(3), (3, 0));
        assert_eq!((lines.ahead(line(1)), lines.ahead(line(2)), lines.ahead(line(4))), (6, 4, 3));
        let order: Vec<_> = (0..6).map(|_| lines.pop().unwrap()).collect();
        assert_eq!(order, [(1, 0), (2, 0), (3, 0), (1, 1), (1, 2), (1, 3)]);
    }

    #[test]
    fn a_clients_queries_do_not_wait_for_its_writes() {
        let lines = Lines::new();
        let writes = Line { client: 1, urgent: false };
        (0..3).for_each(|n| lines.push(writes, n));
        lines.push(line(1), 9);
        let order: Vec<_> = (0..4).map(|_| lines.pop().unwrap()).collect();
        assert_eq!(order, [0, 9, 1, 2]);
    }

    #[test]
    fn the_longest_line_gives_way() {
        let lines = Lines::new();
        (0..3).for_each(|n| lines.push(line(1), n));
        assert_eq!(lines.shed(line(1)), None, "not for itself");
        assert_eq!(lines.shed(line(2)), Some(2));
        lines.push(line(2), 9);
        assert_eq!(lines.shed(line(2)), None, "both would have one more than the other");
        assert_eq!(lines.shed(line(3)), Some(1));
        assert_eq!(lines.shed(line(3)), None);
        assert_eq!([lines.pop(), lines.pop()], [Some(0), Some(9)]);
    }

    #[test]
    fn a_closed_queue_lets_everybody_go() {
        let lines = Arc::new(Lines::<u32>::new());
        let other = lines.clone();
        let waiting = std::thread::spawn(move || other.pop());
        lines.close();
        assert_eq!(waiting.join().unwrap(), None);
        lines.push(line(1), 1);
        assert_eq!((lines.pop(), lines.ahead(line(1))), (None, 0));
    }
}
