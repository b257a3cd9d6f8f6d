//! What is not in the graph yet: searched exactly.
//!
//! Full segments never change but for a flag per row, so a search takes them along and scans them without any lock;
//! only the small one that still grows is scanned under it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use omma_common::topk::TopK;

use super::exact::Flat;
use super::{Allow, Candidate};

/// Rows per segment: what a search scans while apply waits.
const SEGMENT: usize = 256;

/// Rows and which of them have gone.
#[derive(Debug)]
pub(super) struct Segment {
    rows: Flat,
    gone: Vec<AtomicBool>,
}

impl Segment {
    fn new(dimension: usize) -> Self {
        Self { rows: Flat::new(dimension), gone: Vec::new() }
    }

    fn lives(&self, row: usize) -> bool {
        !self.gone[row].load(Ordering::Acquire)
    }

    /// Offers every row that is still here and that `allow` lets through.
    pub(super) fn scan(&self, query: &[f32], best: &mut TopK<Candidate>, allow: Option<Allow<'_>>) {
        self.rows.scan(query, best, |row, key| self.lives(row) && allow.is_none_or(|allow| allow(key)));
    }
}

/// The tail, oldest first.
#[derive(Debug)]
pub(super) struct Tail {
    dimension: usize,
    full: VecDeque<Arc<Segment>>,
    growing: Segment,
    /// Segments that were dropped from the front, so that `places` need not change then.
    dropped: usize,
    /// Key → segment (counted from the very first), row. Only what lives.
    places: HashMap<u64, (usize, usize)>,
    /// The highest key that was ever handed to the graph.
    handed: u64,
}

impl Tail {
    /// Empty; keys up to `handed` are with the graph.
    pub(super) fn new(dimension: usize, handed: u64) -> Self {
        Self {
            dimension,
            full: VecDeque::new(),
            growing: Segment::new(dimension),
            dropped: 0,
            places: HashMap::new(),
            handed,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let segments = self.full.iter().map(|segment| segment.rows.memory_bytes()).sum::<usize>();
        segments + self.growing.rows.memory_bytes() + self.places.capacity() * size_of::<(u64, (usize, usize))>()
    }

    /// Appends; a key that is already here stays as it is.
    pub(super) fn insert(&mut self, key: u64, embedding: &[f32]) {
        if self.places.contains_key(&key) {
            return;
        }
        self.places.insert(key, (self.dropped + self.full.len(), self.growing.rows.len()));
        self.growing.rows.push(key, embedding);
        self.growing.gone.push(AtomicBool::new(false));
        if self.growing.rows.len() == SEGMENT {
            let full = std::mem::replace(&mut self.growing, Segment::new(self.dimension));
            self.full.push_back(Arc::new(full));
        }
    }

    /// Takes the key out, and says whether the graph has it or may be getting it.
    pub(super) fn remove(&mut self, key: u64) -> bool {
        self.forget(key);
        self.drop_empty();
        key <= self.handed
    }

    /// The oldest `max`, which from now on the graph may have. They stay here until [`Tail::forget_all`].
    pub(super) fn hand_over(&mut self, max: usize) -> Vec<(u64, Vec<f32>)> {
        let segments = self.full.iter().map(Arc::as_ref).chain([&self.growing]);
        let living = segments.flat_map(|s| (0..s.rows.len()).filter(|&row| s.lives(row)).map(move |row| (s, row)));
        let chunk: Vec<_> = living.take(max).map(|(s, row)| (s.rows.key(row), s.rows.row(row).to_vec())).collect();
        self.handed = chunk.iter().map(|(key, _)| *key).fold(self.handed, u64::max);
        chunk
    }

    /// Takes out what has arrived in the graph.
    pub(super) fn forget_all(&mut self, keys: impl IntoIterator<Item = u64>) {
        keys.into_iter().for_each(|key| self.forget(key));
        self.drop_empty();
    }

    /// Scans what grows, and gives what can be scanned without holding the tail.
    pub(super) fn begin_search(
        &self,
        query: &[f32],
        best: &mut TopK<Candidate>,
        allow: Option<Allow<'_>>,
    ) -> Vec<Arc<Segment>> {
        self.growing.scan(query, best, allow);
        self.full.iter().cloned().collect()
    }

    fn forget(&mut self, key: u64) {
        let Some((segment, row)) = self.places.remove(&key) else { return };
        let segment = self.full.get(segment - self.dropped).map_or(&self.growing, Arc::as_ref);
        segment.gone[row].store(true, Ordering::Release);
    }

    fn drop_empty(&mut self) {
        while let Some(first) = self.full.front() {
            if (0..first.rows.len()).any(|row| first.lives(row)) {
                return;
            }
            self.full.pop_front();
            self.dropped += 1;
        }
        if self.places.is_empty() && self.growing.rows.len() > 0 {
            self.growing = Segment::new(self.dimension);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn keys(tail: &Tail) -> Vec<u64> {
        let mut best = TopK::new(10_000);
        for segment in tail.begin_search(&[1.0], &mut best, None) {
            segment.scan(&[1.0], &mut best, None);
        }
        let mut keys: Vec<_> = best.into_sorted().iter().map(|hit| hit.key).collect();
        keys.sort_unstable();
        keys
    }

    proptest! {
        /// Any mix of inserting, removing and handing over leaves exactly what a plain map would hold.
        #[test]
        fn equals_a_map(steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>(), 1usize..400), 1..30)) {
            let (mut tail, mut model, mut next) = (Tail::new(1, 0), BTreeMap::new(), 1u64);
            for (what, which, count) in steps {
                match what {
                    0 | 1 => for _ in 0..count {
                        tail.insert(next, &[1.0 / next as f32]);
                        model.insert(next, ());
                        next += 1;
                    },
                    2 if !model.is_empty() => {
                        let key = *which.get(&model.keys().copied().collect::<Vec<_>>());
                        model.remove(&key);
                        tail.remove(key);
                    }
                    _ => {
                        let chunk = tail.hand_over(count);
                        let want: Vec<u64> = model.keys().copied().take(count).collect();
                        prop_assert_eq!(chunk.iter().map(|c| c.0).collect::<Vec<_>>(), want.clone());
                        prop_assert!(chunk.iter().all(|(key, row)| row[..] == [1.0 / *key as f32]));
                        tail.forget_all(want.iter().copied());
                        want.iter().for_each(|key| { model.remove(key); });
                    }
                }
                prop_assert_eq!(tail.len(), model.len());
                prop_assert_eq!(keys(&tail), model.keys().copied().collect::<Vec<_>>());
                prop_assert!(tail.full.len() <= next as usize / SEGMENT);
            }
        }
    }

    #[test]
    fn only_what_was_handed_over_may_be_in_the_graph() {
        let mut tail = Tail::new(1, 0);
        (1..=3).for_each(|key| tail.insert(key, &[1.0]));
        assert!(!tail.remove(1));
        assert_eq!(tail.hand_over(1).len(), 1);
        assert!(tail.remove(2) && !tail.remove(3));
        assert_eq!(tail.len(), 0);
    }

    #[test]
    fn memory_returns_when_all_have_gone() {
        let mut tail = Tail::new(64, 0);
        (1..=3000).for_each(|key| tail.insert(key, &[0.5; 64]));
        assert!(tail.memory_bytes() > 3000 * 64 * 4);
        tail.forget_all(1..=3000);
        assert!(tail.full.is_empty() && tail.growing.rows.memory_bytes() == 0);
    }
}
