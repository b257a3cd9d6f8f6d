//! Memory for decoding, shared by all threads that decode: taken before a picture's pixels are, by what its header says.

use omma_common::deadline::Deadline;
use parking_lot::{Condvar, Mutex};

/// Bytes that decoding may use in all.
pub(super) struct Budget {
    most: u64,
    free: Mutex<u64>,
    freed: Condvar,
}

/// Bytes that were taken; given back when dropped.
pub(super) struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.budget.free.lock() += self.bytes;
        self.budget.freed.notify_all();
    }
}

impl Budget {
    pub(super) fn new(most: u64) -> Self {
        Self { most, free: Mutex::new(most), freed: Condvar::new() }
    }

    /// Takes `bytes`, waiting for them if need be. One that needs more than there is gets all of it: it runs alone.
    /// `None` if `deadline` passes first.
    pub(super) fn take(&self, bytes: u64, deadline: Deadline) -> Option<Share<'_>> {
        let bytes = bytes.min(self.most);
        let mut free = self.free.lock();
        while *free < bytes {
            if self.freed.wait_for(&mut free, deadline.left()).timed_out() && *free < bytes {
                return None;
            }
        }
        *free -= bytes;
        Some(Share { budget: self, bytes })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_taken_is_missing_until_it_is_given_back() {
        let budget = Budget::new(100);
        let (soon, later) = (|| Deadline::after(Duration::from_millis(10)), Deadline::after(Duration::from_secs(20)));
        let first = budget.take(60, later).unwrap();
        assert!(budget.take(60, soon()).is_none());
        let second = budget.take(40, soon()).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| budget.take(90, later).is_some());
            drop(first);
            drop(second);
            assert!(waiting.join().unwrap());
        });
        // More than there is: alone, with all of it.
        let alone = budget.take(1000, soon()).unwrap();
        assert!(budget.take(1, soon()).is_none());
        drop(alone);
        assert!(budget.take(100, soon()).is_some());
    }
}
