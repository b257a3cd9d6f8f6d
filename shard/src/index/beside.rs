//! What is searched exactly beside the graph: the few embeddings that a search of the graph does not find, and copies
//! of one embedding beyond the first few. (Hundreds of equal embeddings fill each other's lists of neighbours, become
//! an island, and cut off what was reached through them: one picture uploaded 700 times hid 38 of 1,500 others.)

use std::collections::{HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use omma_common::topk::TopK;
use parking_lot::RwLock;

use super::exact::Flat;
use super::{Allow, Candidate};

/// A number that equal embeddings share.
pub(super) fn fingerprint(embedding: &[f32]) -> u64 {
    let mut hasher = DefaultHasher::new();
    embedding.iter().for_each(|x| x.to_bits().hash(&mut hasher));
    hasher.finish()
}

/// Embeddings, each once, with all the keys that have it: a thousand copies cost one inner product.
#[derive(Debug)]
pub(super) struct Beside(RwLock<Inner>);

#[derive(Debug)]
struct Inner {
    /// The key of a row is its fingerprint.
    rows: Flat,
    keys: Vec<Vec<u64>>,
    places: HashMap<u64, usize>,
    known: HashSet<u64>,
}

impl Beside {
    pub(super) fn new(dimension: usize) -> Self {
        Self(RwLock::new(Inner {
            rows: Flat::new(dimension),
            keys: Vec::new(),
            places: HashMap::new(),
            known: HashSet::new(),
        }))
    }

    /// Adds embeddings of the right dimension; a key that is already here stays as it is.
    pub(super) fn add(&self, items: &[(u64, &[f32])]) {
        if !items.is_empty() {
            let mut inner = self.0.write();
            items.iter().for_each(|(key, embedding)| inner.add(*key, embedding));
        }
    }

    pub(super) fn search(&self, query: &[f32], k: usize, allow: Option<Allow<'_>>) -> Vec<Candidate> {
        let inner = self.0.read();
        let mut best = TopK::new(k);
        for row in 0..inner.rows.len() {
            let score = super::dot(query, inner.rows.row(row));
            let keys = inner.keys[row].iter().filter(|key| allow.is_none_or(|allow| allow(**key)));
            best.extend(keys.map(|&key| Candidate { key, score, error: 0.0 }));
        }
        best.into_sorted()
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.0.read().known.contains(&key)
    }

    /// Keys, not distinct embeddings.
    pub(super) fn len(&self) -> usize {
        self.0.read().known.len()
    }

    /// In no order.
    pub(super) fn keys(&self) -> Vec<u64> {
        self.0.read().known.iter().copied().collect()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let inner = self.0.read();
        inner.rows.memory_bytes() + inner.known.len() * 4 * size_of::<u64>()
    }

    /// Every key and embedding.
    pub(super) fn items(&self) -> Vec<(u64, Vec<f32>)> {
        let inner = self.0.read();
        let rows = inner.keys.iter().enumerate();
        rows.flat_map(|(row, keys)| keys.iter().map(move |key| (row, *key)))
            .map(|(row, key)| (key, inner.rows.row(row).to_vec()))
            .collect()
    }
}

impl Inner {
    fn add(&mut self, key: u64, embedding: &[f32]) {
        if !self.known.insert(key) {
            return;
        }
        let fingerprint = fingerprint(embedding);
        let same = |&row: &usize| self.rows.row(row).iter().zip(embedding).all(|(a, b)| a.to_bits() == b.to_bits());
        match self.places.get(&fingerprint).copied().filter(same) {
            Some(row) => self.keys[row].push(key),
            None => {
                // Should two embeddings share a fingerprint, the second one's copies get rows of their own.
                self.places.entry(fingerprint).or_insert(self.keys.len());
                self.rows.push(fingerprint, embedding);
                self.keys.push(vec![key]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_share_a_row_and_all_are_found() {
        let beside = Beside::new(2);
        (1..=50).for_each(|key| beside.add(&[(key, &[1.0, 0.0])]));
        beside.add(&[(60, &[0.0, 1.0]), (60, &[1.0, 0.0]), (50, &[0.0, 1.0])]);
        assert_eq!((beside.len(), beside.0.read().rows.len()), (51, 2));
        let hits = beside.search(&[1.0, 0.0], 100, None);
        assert_eq!(hits.iter().map(|hit| hit.key).collect::<Vec<_>>(), (1..=50).chain([60]).collect::<Vec<_>>());
        let hits = beside.search(&[1.0, 0.0], 3, Some(&|key| key > 10));
        assert_eq!(hits.iter().map(|hit| hit.key).collect::<Vec<_>>(), [11, 12, 13]);
        let mut items = beside.items();
        items.sort_by_key(|item| item.0);
        assert_eq!((items.len(), &items[50]), (51, &(60, vec![0.0, 1.0])));
        assert!(beside.contains(60) && !beside.contains(61));
    }
}
