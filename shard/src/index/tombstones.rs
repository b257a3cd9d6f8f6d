//! Keys that the graph still holds but nobody may see.

use std::collections::HashSet;

use parking_lot::RwLock;

const SHARDS: usize = 64;

/// A set that is asked for every embedding a search looks at, while apply adds to it: sharded, so that neither waits
/// for the other.
#[derive(Debug)]
pub(super) struct Tombstones {
    shards: Box<[RwLock<HashSet<u64>>]>,
}

impl Default for Tombstones {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| RwLock::default()).collect() }
    }
}

impl Tombstones {
    fn shard(&self, key: u64) -> &RwLock<HashSet<u64>> {
        // Keys are multiples of a power of two plus a little: multiply before taking bits, and take the high ones.
        let mixed = key.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        &self.shards[(mixed >> (u64::BITS - SHARDS.trailing_zeros())) as usize]
    }

    pub(super) fn insert(&self, key: u64) {
        self.shard(key).write().insert(key);
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.shard(key).read().contains(&key)
    }

    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.read().is_empty())
    }

    pub(super) fn retain(&self, keep: impl Fn(u64) -> bool) {
        self.shards.iter().for_each(|shard| shard.write().retain(|&key| keep(key)));
    }

    /// All of them, in no order.
    pub(super) fn keys(&self) -> Vec<u64> {
        self.shards.iter().flat_map(|shard| shard.read().iter().copied().collect::<Vec<_>>()).collect()
    }
}

impl Extend<u64> for Tombstones {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, keys: I) {
        keys.into_iter().for_each(|key| self.insert(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_set_and_spreads() {
        let set = Tombstones::default();
        assert!(set.is_empty());
        (1..=1000u64).for_each(|i| set.insert(i * 4096));
        set.insert(4096);
        assert_eq!((set.len(), set.contains(4096), set.contains(4097)), (1000, true, false));
        assert!(set.shards.iter().filter(|s| !s.read().is_empty()).count() > SHARDS / 2);
        set.retain(|key| key <= 4096 * 10);
        let mut keys = set.keys();
        keys.sort_unstable();
        assert_eq!(keys, (1..=10u64).map(|i| i * 4096).collect::<Vec<_>>());
    }
}
