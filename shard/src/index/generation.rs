//! One graph with what belongs to it. A rebuild makes a new one and swaps it in whole, so that a search never mixes
//! the graph of one with the tombstones of another.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::among::{Among, Way, way};
use super::beside::{Beside, fingerprint};
use super::tombstones::Tombstones;
use super::{Allow, Candidate, Hnsw, IndexConfig, IndexError, VectorIndex};

/// Equal embeddings that may be in the graph: more would choke it.
const COPIES: u8 = 4;

/// A graph, its tombstones, and what is searched exactly beside it.
pub(super) struct Generation {
    pub(super) graph: Hnsw,
    pub(super) tombstones: Tombstones,
    pub(super) beside: Beside,
    /// Fingerprint → equal embeddings in the graph, as far as this process has seen them.
    copies: Mutex<HashMap<u64, u8>>,
}

impl Generation {
    /// Nothing yet.
    pub(super) fn new(config: IndexConfig) -> Result<Self, IndexError> {
        let dimension = config.dimension;
        Ok(Self::over(Hnsw::new(config)?, dimension))
    }

    /// Out of a checkpoint's parts. What lies beside already may not enter the graph through its copies either.
    pub(super) fn restore(config: IndexConfig, graph: &[u8], beside: &[(u64, Vec<f32>)]) -> Result<Self, IndexError> {
        let dimension = config.dimension;
        let restored = Self::over(Hnsw::restore(config, graph)?, dimension);
        for (key, embedding) in beside {
            super::check(embedding, dimension).map_err(|why| IndexError::Checkpoint(why.to_string()))?;
            restored.beside.add(&[(*key, embedding)]);
            restored.copies.lock().insert(fingerprint(embedding), COPIES);
        }
        Ok(restored)
    }

    fn over(graph: Hnsw, dimension: usize) -> Self {
        Self { graph, tombstones: Tombstones::default(), beside: Beside::new(dimension), copies: Mutex::default() }
    }

    /// Takes embeddings in, and looks that each can be found when this returns. What is here already stays as it is.
    pub(super) fn absorb(&self, items: &[(u64, &[f32])]) -> Result<(), IndexError> {
        let new = items.iter().copied().filter(|(key, _)| !self.contains(*key));
        let (first, surplus): (Vec<_>, Vec<_>) = new.partition(|(_, embedding)| self.counts_as_first(embedding));
        self.beside.add(&surplus);
        self.graph.add(&first)?;
        // Those too that an earlier attempt added and then failed to look for.
        let unproved: Vec<_> = items.iter().copied().filter(|(key, _)| !self.beside.contains(*key)).collect();
        let unproved = self.graph.unproved(&unproved)?;
        self.beside.add(&self.graph.unfound(&unproved, self.graph.adders())?);
        Ok(())
    }

    /// How many of `items` the graph holds but no longer finds; they lie beside it from now on. On this thread alone.
    pub(super) fn audit(&self, items: &[(u64, &[f32])]) -> Result<usize, IndexError> {
        let held = |key: &u64| self.graph.contains(*key) && !self.beside.contains(*key);
        let held: Vec<_> = items.iter().copied().filter(|(key, _)| held(key)).collect();
        let lost = self.graph.unfound(&held, 1)?;
        self.beside.add(&lost);
        Ok(lost.len())
    }

    fn counts_as_first(&self, embedding: &[f32]) -> bool {
        let mut copies = self.copies.lock();
        let count = copies.entry(fingerprint(embedding)).or_default();
        *count = (*count + 1).min(COPIES + 1);
        *count <= COPIES
    }

    /// The best `k` that live, of the graph and of what is beside it; of those in `among`, if it is given.
    pub(super) fn search(
        &self,
        query: &[f32],
        k: usize,
        among: Option<&dyn Among>,
    ) -> Result<Vec<Candidate>, IndexError> {
        let lives = |key| !self.tombstones.contains(key);
        let Some(among) = among else {
            // Asking for every embedding costs: only when there is something to ask for.
            let allow: Option<Allow<'_>> = if self.tombstones.is_empty() { None } else { Some(&lives) };
            let mut hits = self.beside.search(query, k, allow);
            hits.extend(self.graph.search(query, k, allow)?);
            return Ok(hits);
        };
        let allow = |key| among.contains(key) && lives(key);
        let mut hits = self.beside.search(query, k, Some(&allow));
        let walked = match way(among.len(), self.graph.len(), self.graph.expansion_search().max(k)) {
            Way::Scan => None,
            Way::Graph { patience } => self.walk(query, k, &allow, patience)?,
        };
        hits.extend(match walked {
            Some(found) => found,
            None => self.graph.scan(
                query,
                k.saturating_mul(self.graph.scanned()),
                &mut among.keys().filter(|key| lives(*key)),
            )?,
        });
        Ok(hits)
    }

    /// A search through the graph; `None` if it met more than `patience` keys that it may not return.
    pub(super) fn walk(
        &self,
        query: &[f32],
        k: usize,
        allow: Allow<'_>,
        patience: usize,
    ) -> Result<Option<Vec<Candidate>>, IndexError> {
        let refused = AtomicUsize::new(0);
        // Once patience is over everything is let through, which ends the search soon.
        let patient = |key| allow(key) || refused.fetch_add(1, Ordering::Relaxed) >= patience;
        let found = self.graph.search(query, k, Some(&patient))?;
        Ok((refused.into_inner() <= patience).then_some(found))
    }

    /// Keys held, with those that have tombstones.
    pub(super) fn held(&self) -> usize {
        let only_beside = self.beside.keys().into_iter().filter(|key| !self.graph.contains(*key)).count();
        self.graph.len() + only_beside
    }

    fn contains(&self, key: u64) -> bool {
        self.graph.contains(key) || self.beside.contains(key)
    }

    /// Forgets tombstones of what is not held.
    pub(super) fn prune_tombstones(&self) {
        self.tombstones.retain(|key| self.contains(key));
    }

    /// Memory held, in bytes.
    pub(super) fn memory_bytes(&self) -> usize {
        let copies = self.copies.lock().capacity() * size_of::<(u64, u8)>();
        self.graph.memory_bytes() + self.beside.memory_bytes() + copies
    }
}
