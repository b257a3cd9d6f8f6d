//! How a reader without a lock learns that something changed under it (a sequence lock; Lameter, "Effective
//! synchronization on Linux/NUMA systems", 2005).

use std::sync::atomic::{AtomicU64, Ordering};

/// Grows when a change begins and when it ends: odd in between. One change at a time; that is the writer's to see to.
#[derive(Debug, Default)]
pub(super) struct Version(AtomicU64);

impl Version {
    /// Now. What a reader looks at before and after.
    pub(super) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether nothing was under way at `before`, and nothing has begun since.
    pub(super) fn is_still(&self, before: u64) -> bool {
        before.is_multiple_of(2) && self.now() == before
    }

    /// Calls `change` while readers know of it.
    pub(super) fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        self.0.fetch_add(1, Ordering::SeqCst);
        let changed = change();
        self.0.fetch_add(1, Ordering::SeqCst);
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_seen_while_it_lasts_and_afterwards() {
        let version = Version::default();
        let before = version.now();
        assert!(version.is_still(before));
        version.change(|| {
            assert!(!version.is_still(before));
            assert!(!version.is_still(version.now()));
        });
        assert!(!version.is_still(before));
        assert!(version.is_still(version.now()));
    }
}
