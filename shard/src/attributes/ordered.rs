//! Values in order, with the rows that have them: a range of them is one slice.

use std::cmp::Ordering;

use roaring::RoaringBitmap;

/// New values wait unsorted, and are looked through one by one, until they are so many…
const RECENT_AT_LEAST: usize = 4096;
/// …and this part of the sorted ones: each merge moves all of those.
const RECENT_PART: usize = 64;
/// So few rows are quicker sorted than spread out.
const FEW: usize = 256;

/// Values of one type, each with its row.
#[derive(Debug, Clone)]
pub(super) struct Ordered<T> {
    sorted: Vec<(T, u32)>,
    recent: Vec<(T, u32)>,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self { sorted: Vec::new(), recent: Vec::new() }
    }
}

impl<T: Ord + Copy> Ordered<T> {
    pub(super) fn insert(&mut self, value: T, row: u32) {
        self.recent.push((value, row));
        if self.recent.len() >= RECENT_AT_LEAST.max(self.sorted.len() / RECENT_PART) {
            self.merge();
        }
    }

    fn merge(&mut self) {
        self.recent.sort_unstable();
        self.sorted.append(&mut self.recent);
        // Two sorted runs: the sort finds them and merges.
        self.sorted.sort();
    }

    /// The rows of what `place` says is in the range (`Equal`); it must not fall as values rise. `rows` is more than
    /// any row.
    pub(super) fn within(&self, rows: usize, place: impl Fn(T) -> Ordering) -> RoaringBitmap {
        let from = self.sorted.partition_point(|(value, _)| place(*value) == Ordering::Less);
        let inside = &self.sorted[from..];
        let inside = &inside[..inside.partition_point(|(value, _)| place(*value) == Ordering::Equal)];
        let recent = self.recent.iter().filter(|(value, _)| place(*value) == Ordering::Equal);
        if inside.len() <= FEW {
            let mut few: Vec<u32> = inside.iter().chain(recent).map(|(_, row)| *row).collect();
            few.sort_unstable();
            return few.into_iter().collect();
        }
        let mut bits = vec![0u8; rows.div_ceil(8)];
        inside.iter().chain(recent).for_each(|(_, row)| bits[*row as usize / 8] |= 1 << (row % 8));
        RoaringBitmap::from_lsb0_bytes(0, &bits)
    }

    /// All of them, in order.
    pub(super) fn entries(&self) -> Vec<(T, u32)> {
        let mut all = Self { sorted: self.sorted.clone(), recent: self.recent.clone() };
        all.merge();
        all.sorted
    }

    /// As [`super::posting::renumbered`].
    pub(super) fn renumber(&mut self, new_rows: &[Option<u32>]) {
        for entries in [&mut self.sorted, &mut self.recent] {
            entries.retain_mut(|(_, row)| match new_rows.get(*row as usize).copied().flatten() {
                Some(new) => {
                    *row = new;
                    true
                }
                None => false,
            });
        }
        self.sorted.shrink_to_fit();
    }

    pub(super) fn memory_bytes(&self) -> usize {
        (self.sorted.capacity() + self.recent.capacity()) * size_of::<(T, u32)>()
    }
}

impl<T: Ord + Copy> FromIterator<(T, u32)> for Ordered<T> {
    fn from_iter<I: IntoIterator<Item = (T, u32)>>(entries: I) -> Self {
        let mut all = Self { sorted: entries.into_iter().collect(), recent: Vec::new() };
        all.sorted.sort();
        all
    }
}
