//! Exact search over a flat matrix: what the tail does, and what the graph is compared with.

use std::collections::HashMap;

use omma_common::topk::TopK;
use parking_lot::RwLock;

use super::{Allow, Candidate, IndexError, VectorIndex, check, dot};

/// Keys and their embeddings, one row each, back to back.
#[derive(Debug, Default)]
pub(super) struct Flat {
    dimension: usize,
    keys: Vec<u64>,
    rows: Vec<f32>,
}

impl Flat {
    pub(super) fn new(dimension: usize) -> Self {
        Self { dimension, ..Self::default() }
    }

    /// `embedding` must have the matrix's dimension: rows would shift otherwise.
    pub(super) fn push(&mut self, key: u64, embedding: &[f32]) {
        assert_eq!(embedding.len(), self.dimension, "a row of another dimension");
        self.keys.push(key);
        self.rows.extend_from_slice(embedding);
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn key(&self, row: usize) -> u64 {
        self.keys[row]
    }

    pub(super) fn row(&self, row: usize) -> &[f32] {
        &self.rows[row * self.dimension..(row + 1) * self.dimension]
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.rows.capacity() * size_of::<f32>() + self.keys.capacity() * size_of::<u64>()
    }

    /// Offers every row that `allow` (row, key) lets through.
    pub(super) fn scan(&self, query: &[f32], best: &mut TopK<Candidate>, allow: impl Fn(usize, u64) -> bool) {
        for (row, (&key, embedding)) in self.keys.iter().zip(self.rows.chunks_exact(self.dimension)).enumerate() {
            if allow(row, key) {
                best.push(Candidate { key, score: dot(query, embedding), error: 0.0 });
            }
        }
    }
}

/// An index that always finds everything, in time proportional to its size.
#[derive(Debug)]
pub struct Exact {
    inner: RwLock<(Flat, HashMap<u64, usize>)>,
    dimension: usize,
}

impl Exact {
    /// An empty index for embeddings of `dimension` numbers.
    pub fn new(dimension: usize) -> Self {
        Self { inner: RwLock::new((Flat::new(dimension), HashMap::new())), dimension }
    }
}

impl VectorIndex for Exact {
    fn add(&self, items: &[(u64, &[f32])]) -> Result<(), IndexError> {
        items.iter().try_for_each(|(_, embedding)| check(embedding, self.dimension))?;
        let mut inner = self.inner.write();
        let (flat, places) = &mut *inner;
        for &(key, embedding) in items {
            places.entry(key).or_insert_with(|| {
                flat.push(key, embedding);
                flat.len() - 1
            });
        }
        Ok(())
    }

    fn search(&self, query: &[f32], k: usize, allow: Option<Allow<'_>>) -> Result<Vec<Candidate>, IndexError> {
        check(query, self.dimension)?;
        let mut best = TopK::new(k);
        self.inner.read().0.scan(query, &mut best, |_, key| allow.is_none_or(|allow| allow(key)));
        Ok(best.into_sorted())
    }

    fn contains(&self, key: u64) -> bool {
        self.inner.read().1.contains_key(&key)
    }

    fn len(&self) -> usize {
        self.inner.read().0.len()
    }

    fn memory_bytes(&self) -> usize {
        self.inner.read().0.memory_bytes()
    }
}
