//! A queue between threads that is popped in batches.
//!
//! Whoever adds to it waits while it is full.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    /// Told when entries were taken.
    taken: Condvar,
}

struct State<T> {
    waiting: VecDeque<T>,
    closed: bool,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State { waiting: VecDeque::new(), closed: false }),
            changed: Condvar::new(),
            taken: Condvar::new(),
        }
    }

    /// Adds `entry`, once fewer than `most` wait; drops it if the queue is closed.
    pub(super) fn push(&self, entry: T, most: usize) {
        let mut state = self.state.lock();
        self.taken.wait_while(&mut state, |s| s.waiting.len() >= most && !s.closed);
        if !state.closed {
            state.waiting.push_back(entry);
            self.changed.notify_one();
        }
    }

    /// Waits for at least one entry, then takes up to `most`. If fewer are there, gives more of them `gather` to come.
    /// `None` once the queue is closed.
    pub(super) fn pop(&self, most: usize, gather: Duration) -> Option<Vec<T>> {
        let mut state = self.state.lock();
        // Again if another thread took everything while this one gathered.
        while state.waiting.is_empty() {
            if state.closed {
                return None;
            }
            self.changed.wait_while(&mut state, |s| s.waiting.is_empty() && !s.closed);
            let end = Instant::now() + gather;
            while state.waiting.len() < most && !state.closed && !self.changed.wait_until(&mut state, end).timed_out() {
            }
        }
        let take = state.waiting.len().min(most);
        let batch = state.waiting.drain(..take).collect();
        self.taken.notify_all();
        if !state.waiting.is_empty() {
            // While this one gathered it may have swallowed the wake-up that was meant for another.
            self.changed.notify_one();
        }
        Some(batch)
    }

    /// Drops what waits and lets every `pop` return `None`.
    pub(super) fn close(&self) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.waiting)
        };
        self.changed.notify_all();
        self.taken.notify_all();
        drop(dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn takes_what_waits_up_to_the_most() {
        let queue = Queue::new();
        (0..5).for_each(|n| queue.push(n, 2000));
        assert_eq!(queue.pop(3, Duration::ZERO), Some(vec![0, 1, 2]));
        assert_eq!(queue.pop(3, Duration::ZERO), Some(vec![3, 4]));
        queue.push(5, 2000);
        queue.close();
        queue.push(6, 2000);
        assert_eq!(queue.pop(1, Duration::ZERO), None);
    }

    #[test]
    fn a_full_queue_lets_nobody_add() {
        let queue = Arc::new(Queue::new());
        queue.push(1, 1);
        let other = Arc::clone(&queue);
        let adding = std::thread::spawn(move || other.push(2, 1));
        std::thread::sleep(Duration::from_millis(20));
        assert!(!adding.is_finished());
        assert_eq!(queue.pop(9, Duration::ZERO), Some(vec![1]));
        adding.join().unwrap();
        assert_eq!(queue.pop(9, Duration::ZERO), Some(vec![2]));
        queue.push(3, 1);
        let other = Arc::clone(&queue);
        let adding = std::thread::spawn(move || other.push(4, 1));
        queue.close();
        adding.join().unwrap();
    }

    #[test]
    fn gathers_what_comes_soon() {
        let queue = Arc::new(Queue::new());
        let other = Arc::clone(&queue);
        let thread = std::thread::spawn(move || other.pop(2, Duration::from_secs(20)));
        queue.push(1, 2000);
        queue.push(2, 2000);
        let start = Instant::now();
        assert_eq!(thread.join().unwrap(), Some(vec![1, 2]));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn nothing_is_lost_or_doubled_between_threads() {
        let queue = Arc::new(Queue::new());
        let takers: Vec<_> = (0..4)
            .map(|n| {
                let queue = Arc::clone(&queue);
                std::thread::spawn(move || {
                    let mut taken = Vec::new();
                    while taken.len() < 250 {
                        let most = (n % 3 + 1).min(250 - taken.len());
                        taken.extend(queue.pop(most, Duration::from_micros(50)).unwrap());
                    }
                    taken
                })
            })
            .collect();
        (0..1000).for_each(|n| queue.push(n, 2000));
        let mut all: Vec<i32> = takers.into_iter().flat_map(|t| t.join().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }
}
