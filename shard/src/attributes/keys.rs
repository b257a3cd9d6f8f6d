//! Rows and their keys.

use std::sync::Arc;

/// Keys per chunk.
const CHUNK: usize = 4096;

/// The key of each row, ascending. Cheap to clone: full chunks are shared.
#[derive(Debug, Clone, Default)]
pub(super) struct Keys {
    full: Vec<Arc<[u64]>>,
    /// The first key of each full chunk.
    heads: Vec<u64>,
    growing: Vec<u64>,
}

impl Keys {
    pub(super) fn len(&self) -> usize {
        self.full.len() * CHUNK + self.growing.len()
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.growing.last().or_else(|| self.full.last().and_then(|chunk| chunk.last())).copied()
    }

    /// Appends; greater than all that are here.
    pub(super) fn push(&mut self, key: u64) {
        self.growing.push(key);
        if self.growing.len() == CHUNK {
            self.heads.push(self.growing[0]);
            self.full.push(self.growing.as_slice().into());
            self.growing.clear();
        }
    }

    /// The key of a row that is here.
    pub(super) fn key(&self, row: u32) -> u64 {
        let row = row as usize;
        self.full.get(row / CHUNK).map_or_else(|| self.growing[row % CHUNK], |chunk| chunk[row % CHUNK])
    }

    pub(super) fn row_of(&self, key: u64) -> Option<u32> {
        let (chunk, keys) = match self.growing.first() {
            Some(&first) if first <= key => (self.full.len(), self.growing.as_slice()),
            _ => {
                let chunk = self.heads.partition_point(|&head| head <= key).checked_sub(1)?;
                (chunk, &*self.full[chunk])
            }
        };
        keys.binary_search(&key).ok().map(|place| (chunk * CHUNK + place) as u32)
    }

    /// All of them, by row.
    pub(super) fn all(&self) -> Vec<u64> {
        self.full.iter().flat_map(|chunk| chunk.iter()).chain(&self.growing).copied().collect()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        (self.full.len() * CHUNK + self.growing.capacity() + self.heads.capacity()) * size_of::<u64>()
    }
}

impl FromIterator<u64> for Keys {
    fn from_iter<I: IntoIterator<Item = u64>>(keys: I) -> Self {
        let mut all = Self::default();
        keys.into_iter().for_each(|key| all.push(key));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_and_keys_name_each_other() {
        for count in [0u64, 1, 4095, 4096, 4097, 10_000] {
            let keys: Keys = (1..=count).map(|i| i * 3).collect();
            assert_eq!((keys.len() as u64, keys.last()), (count, (count > 0).then_some(count * 3)));
            for row in (0..count as u32).step_by(7) {
                assert_eq!(keys.row_of(keys.key(row)), Some(row));
                assert_eq!(keys.row_of(keys.key(row) + 1), None);
            }
            assert_eq!((keys.row_of(0), keys.row_of(u64::MAX)), (None, None));
            assert_eq!(keys.all(), (1..=count).map(|i| i * 3).collect::<Vec<_>>());
        }
    }
}
