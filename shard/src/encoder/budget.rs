//! Memory for decoding, shared by all threads that decode: taken before a picture's pixels are, by what its header says.
//!
//! A part of it is for small pictures only, so that they need not wait for one that takes all the rest.

use omma_common::deadline::Deadline;
use parking_lot::{Condvar, Mutex};

/// The part of the memory that is for small pictures: a sixteenth.
const KEPT: u64 = 16;
/// A small picture needs no more than this part of that.
const SMALL: u64 = 4;

/// What one picture may take of `memory` for decoding, in bytes.
pub(crate) const fn for_one_picture(memory: u64) -> u64 {
    memory - memory / KEPT
}

/// Bytes that decoding may use in all.
pub(super) struct Budget {
    /// For any picture.
    most: u64,
    /// For small ones.
    kept: u64,
    free: Mutex<Free>,
    freed: Condvar,
}

struct Free {
    any: u64,
    kept: u64,
}

/// Bytes that were taken; given back when dropped.
pub(super) struct Share<'a> {
    budget: &'a Budget,
    bytes: u64,
    of_kept: bool,
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        let mut free = self.budget.free.lock();
        *free.of(self.of_kept) += self.bytes;
        self.budget.freed.notify_all();
    }
}

impl Free {
    fn of(&mut self, kept: bool) -> &mut u64 {
        if kept { &mut self.kept } else { &mut self.any }
    }
}

impl Budget {
    pub(super) fn new(memory: u64) -> Self {
        let (most, kept) = (for_one_picture(memory), memory - for_one_picture(memory));
        Self { most, kept, free: Mutex::new(Free { any: most, kept }), freed: Condvar::new() }
    }

    /// Takes `bytes`, waiting for them if need be. One that needs more than there is for one gets all of that: beside
    /// it, only small ones run. `None` if `deadline` passes first.
    pub(super) fn take(&self, bytes: u64, deadline: Deadline) -> Option<Share<'_>> {
        let (bytes, small) = (bytes.min(self.most), bytes <= self.kept / SMALL);
        let mut free = self.free.lock();
        loop {
            for of_kept in [true, false] {
                let there = free.of(of_kept);
                if *there >= bytes && (small || !of_kept) {
                    *there -= bytes;
                    return Some(Share { budget: self, bytes, of_kept });
                }
            }
            if deadline.passed() {
                return None;
            }
            self.freed.wait_for(&mut free, deadline.left());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_taken_is_missing_until_it_is_given_back() {
        let budget = Budget::new(106);
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
        assert!(budget.take(2, soon()).is_none());
        drop(alone);
        assert!(budget.take(100, soon()).is_some());
    }

    #[test]
    fn small_pictures_need_not_wait_for_a_large_one() {
        let (budget, soon) = (Budget::new(1600), || Deadline::after(Duration::from_millis(10)));
        let large = budget.take(9999, soon()).unwrap();
        let small: Vec<_> = (0..4).map(|_| budget.take(25, soon()).unwrap()).collect();
        assert!(budget.take(25, soon()).is_none() && budget.take(26, soon()).is_none());
        drop(large);
        assert!(budget.take(1500, soon()).is_some(), "what small ones hold is not missing from the rest");
        drop(small);
    }
}
