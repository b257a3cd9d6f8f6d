//! One graph with what belongs to it. A rebuild makes a new one and swaps it in whole, so that a search never mixes
//! the graph of one with the tombstones of another.

use super::tombstones::Tombstones;
use super::{Allow, Candidate, Exact, Hnsw, IndexConfig, IndexError, VectorIndex};

/// A graph, its tombstones, and the few embeddings that its searches do not find.
pub(super) struct Generation {
    pub(super) graph: Hnsw,
    pub(super) tombstones: Tombstones,
    /// In the graph, but not reachable by a search for themselves; searched exactly instead.
    pub(super) unreachable: Exact,
}

impl Generation {
    pub(super) fn new(config: IndexConfig) -> Result<Self, IndexError> {
        Ok(Self {
            unreachable: Exact::new(config.dimension),
            graph: Hnsw::new(config)?,
            tombstones: Tombstones::default(),
        })
    }

    /// Adds to the graph, and makes sure that each can be found.
    pub(super) fn absorb(&self, items: &[(u64, &[f32])]) -> Result<(), IndexError> {
        self.graph.add(items)?;
        self.unreachable.add(&self.graph.unfound(items)?)
    }

    /// The best `k` that live.
    pub(super) fn search(&self, query: &[f32], k: usize) -> Result<Vec<Candidate>, IndexError> {
        let lives = |key| !self.tombstones.contains(key);
        // Asking for every embedding costs: only when there is something to ask for.
        let allow: Option<Allow<'_>> = if self.tombstones.is_empty() { None } else { Some(&lives) };
        let mut hits = self.graph.search(query, k, allow)?;
        hits.extend(self.unreachable.search(query, k, allow)?);
        Ok(hits)
    }

    /// Embeddings in the graph that live; exact once tombstones are pruned.
    pub(super) fn live(&self) -> usize {
        self.graph.len().saturating_sub(self.tombstones.len())
    }

    /// Forgets tombstones of what the graph does not hold.
    pub(super) fn prune_tombstones(&self) {
        self.tombstones.retain(|key| self.graph.contains(key));
    }
}
