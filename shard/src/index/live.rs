//! A graph, a tail and tombstones as one index: what was inserted is found from then on, what was removed never again.
//!
//! Why a key is never missed: it leaves the tail only after the graph has it, and a search looks at the tail first.
//! Why a removed key never returns: it is out of the tail, and among the tombstones of the graph that has it (and of
//! the one that a rebuild makes), before `remove` returns; a search keeps to one generation of graph and tombstones.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use omma_common::topk::{TopK, rank};
use parking_lot::{Mutex, RwLock};

use super::generation::Generation;
use super::tail::Tail;
use super::{Allow, Among, Candidate, IndexConfig, IndexError, VectorIndex, check, checkpoint};

/// Tombstones per embedding in the graph from which a rebuild pays: searches wade through them, and recall suffers.
const REBUILD_FRACTION: f64 = 0.25;
/// Below so many tombstones a rebuild is not worth the name.
const REBUILD_AT_LEAST: usize = 64;
/// How often a search looks again when images are replaced and the tail is drained under it.
const LOOKS: usize = 4;
/// Embeddings that a rebuild adds, or an audit looks at, at once.
const CHUNK: usize = 256;

/// The graph for a checkpoint, and what it holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Export {
    /// For [`LiveIndex::restore`] under the same configuration. Not checksummed: the caller does that.
    pub bytes: Vec<u8>,
    /// Every live key up to here is in the graph.
    pub watermark: u64,
    /// Embeddings in the graph, with those that have tombstones.
    pub count: usize,
}

/// Sizes, for metrics and decisions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IndexStats {
    /// Embeddings in the graph, with those that have tombstones.
    pub graph: usize,
    /// Embeddings that wait for the graph.
    pub tail: usize,
    /// Removed keys that the graph still holds.
    pub tombstones: usize,
    /// Of `graph`, those that are searched exactly beside it: unreachable in it, or too many equal ones.
    pub beside: usize,
    /// Every live key up to here is in the graph; 0 when nothing is.
    pub watermark: u64,
}

/// The graph that is searched, and the one that is being built.
struct Generations {
    current: Arc<Generation>,
    building: Option<Arc<Generation>>,
}

/// The index of one collection in one replica. `Send + Sync`; every method may run beside every other.
pub struct LiveIndex {
    config: IndexConfig,
    tail: RwLock<Tail>,
    generations: RwLock<Generations>,
    watermark: AtomicU64,
    /// Counted so that a search notices those that came while it searched.
    removals: AtomicU64,
    drains: AtomicU64,
    /// Whoever adds to the graph, exports or swaps it: one at a time.
    worker: Mutex<()>,
}

impl LiveIndex {
    /// An empty index.
    pub fn new(config: IndexConfig) -> Result<Self, IndexError> {
        let generation = Generation::new(config.clone())?;
        Ok(Self::over(config, generation, 0))
    }

    /// An index out of an [`Export`]. `tombstones` are keys up to `watermark` that no longer live. Live records above
    /// the watermark are the caller's to insert.
    pub fn restore(
        config: IndexConfig,
        graph: &[u8],
        watermark: u64,
        tombstones: impl IntoIterator<Item = u64>,
    ) -> Result<Self, IndexError> {
        let parts = checkpoint::read(graph, &config)?;
        let generation = Generation::restore(config.clone(), parts.graph, &parts.beside)?;
        tombstones.into_iter().for_each(|key| generation.tombstones.insert(key));
        generation.prune_tombstones();
        Ok(Self::over(config, generation, watermark))
    }

    fn over(config: IndexConfig, generation: Generation, watermark: u64) -> Self {
        Self {
            tail: RwLock::new(Tail::new(config.dimension, watermark)),
            generations: RwLock::new(Generations { current: Arc::new(generation), building: None }),
            watermark: AtomicU64::new(watermark),
            removals: AtomicU64::new(0),
            drains: AtomicU64::new(0),
            worker: Mutex::new(()),
            config,
        }
    }

    /// What it was built with.
    pub fn config(&self) -> &IndexConfig {
        &self.config
    }

    /// Makes `key` findable. Never fails and never waits for the graph; what is no embedding of this index is left out
    /// and logged, since nothing could ever find it (the API refuses such vectors long before).
    pub fn insert(&self, key: u64, embedding: impl AsRef<[f32]>) {
        match check(embedding.as_ref(), self.config.dimension) {
            Ok(()) => self.tail.write().insert(key, embedding.as_ref()),
            Err(why) => tracing::error!(key, %why, "an embedding was left out of the index"),
        }
    }

    /// Makes `key` unfindable. Unknown keys are no matter. Never waits for the graph.
    pub fn remove(&self, key: u64) {
        self.removals.fetch_add(1, Ordering::AcqRel);
        if self.tail.write().remove(key) {
            let generations = self.generations.read();
            generations.current.tombstones.insert(key);
            if let Some(building) = &generations.building {
                building.tombstones.insert(key);
            }
        }
    }

    /// The best keys for `query`, best first (score, then key): up to `k` and a few more, because the graph's scores
    /// are approximate and the caller ranks again with the exact embeddings. Blocks on computation.
    pub fn search(&self, query: &[f32], k: usize) -> Result<Vec<Candidate>, IndexError> {
        self.search_among(query, k, None)
    }

    /// As [`LiveIndex::search`], of the keys in `among` alone. What replaces one of them meanwhile is not in `among`:
    /// the caller must notice that, and search again.
    pub fn search_among(
        &self,
        query: &[f32],
        k: usize,
        among: Option<&dyn Among>,
    ) -> Result<Vec<Candidate>, IndexError> {
        check(query, self.config.dimension)?;
        if k == 0 {
            return Ok(Vec::new());
        }
        let wanted = k.saturating_add(self.config.storage.spare(k, self.config.expansion_search));
        let mut looks = 0;
        loop {
            looks += 1;
            let (removals, drains) = (self.removals.load(Ordering::Acquire), self.drains.load(Ordering::Acquire));
            let mut hits = self.look(query, wanted, among)?;
            if among.is_some() || self.removals.load(Ordering::Acquire) == removals {
                return Ok(hits);
            }
            // An image was replaced meanwhile, perhaps: its old embedding was passed over. Its new one was in the tail
            // before that, and is there still unless a drain moved it.
            self.look_at_tail(query, wanted, None, &mut hits);
            if self.drains.load(Ordering::Acquire) == drains || looks == LOOKS {
                return Ok(hits);
            }
        }
    }

    fn look(&self, query: &[f32], wanted: usize, among: Option<&dyn Among>) -> Result<Vec<Candidate>, IndexError> {
        // The tail first: what leaves it meanwhile is in the graph already.
        let mut hits = Vec::new();
        self.look_at_tail(query, wanted, among, &mut hits);
        let generation = self.generations.read().current.clone();
        let mut seen: HashSet<u64> = hits.iter().map(|hit| hit.key).collect();
        // Exact scores before approximate ones of the same key.
        let mut from_graph = generation.search(query, wanted, among)?;
        from_graph.sort_by(|a, b| a.error.total_cmp(&b.error));
        hits.extend(from_graph.into_iter().filter(|hit| seen.insert(hit.key)));
        // Once more, for what was removed while this searched.
        hits.retain(|hit| !generation.tombstones.contains(hit.key));
        // All of them: exact scores and those in eight bits can only be compared by whoever reads the embeddings.
        hits.sort_by(|a, b| rank(a.score, &a.key, b.score, &b.key));
        Ok(hits)
    }

    /// Adds the tail's best to `hits`, and keeps the `wanted` best of all.
    fn look_at_tail(&self, query: &[f32], wanted: usize, among: Option<&dyn Among>, hits: &mut Vec<Candidate>) {
        let mut best = TopK::new(wanted);
        let contains = |key| among.is_none_or(|among| among.contains(key));
        let allow: Option<Allow<'_>> = if among.is_some() { Some(&contains) } else { None };
        let segments = self.tail.read().begin_search(query, &mut best, allow);
        segments.iter().for_each(|segment| segment.scan(query, &mut best, allow));
        let known: HashSet<u64> = hits.iter().map(|hit| hit.key).collect();
        hits.extend(best.into_sorted().into_iter().filter(|hit| !known.contains(&hit.key)));
        hits.sort_by(|a, b| rank(a.score, &a.key, b.score, &b.key));
        hits.truncate(wanted);
    }

    /// Moves up to `max` of the oldest embeddings of the tail into the graph, and says how many. For a background
    /// thread: it takes as long as the graph takes, and leaves searches at least half of the time.
    pub fn drain(&self, max: usize) -> Result<usize, IndexError> {
        let _worker = self.worker.lock();
        let chunk = self.tail.write().hand_over(max);
        let Some(last) = chunk.iter().map(|(key, _)| *key).max() else { return Ok(0) };
        let items: Vec<(u64, &[f32])> = chunk.iter().map(|(key, row)| (*key, row.as_slice())).collect();
        let (current, building) = {
            let generations = self.generations.read();
            (generations.current.clone(), generations.building.clone())
        };
        current.absorb(&items)?;
        if let Some(building) = building {
            building.absorb(&items)?;
        }
        self.watermark.fetch_max(last, Ordering::AcqRel);
        self.drains.fetch_add(1, Ordering::AcqRel);
        self.tail.write().forget_all(chunk.iter().map(|(key, _)| *key));
        Ok(chunk.len())
    }

    /// The graph as bytes, with its watermark. Searches, inserts and removes go on; [`LiveIndex::drain`] waits.
    pub fn export(&self) -> Result<Export, IndexError> {
        let _worker = self.worker.lock();
        let generation = self.generations.read().current.clone();
        let (graph, beside) = (generation.graph.export()?, generation.beside.items());
        let bytes = checkpoint::write(&self.config, &beside, &graph);
        Ok(Export { bytes, watermark: self.watermark.load(Ordering::Acquire), count: generation.held() })
    }

    /// Whether so much of the graph was removed that building it anew pays.
    pub fn needs_rebuild(&self) -> bool {
        let current = self.generations.read().current.clone();
        let tombstones = current.tombstones.len();
        tombstones >= REBUILD_AT_LEAST && tombstones as f64 >= REBUILD_FRACTION * current.graph.len() as f64
    }

    /// Builds the graph anew and swaps it in. Everything else goes on meanwhile.
    ///
    /// `records` must yield every live record as of its first `next`, which comes after this call: what is drained
    /// later reaches the new graph by itself, and what is still in the tail is skipped. (Records that were collected
    /// before the call do, too, as long as nobody drained in between.) Removed ones among them do no harm. Should any
    /// be missing, the old graph stays and [`IndexError::Incomplete`] says so.
    pub fn rebuild(&self, records: impl Iterator<Item = (u64, Vec<f32>)>) -> Result<(), IndexError> {
        let building = self.begin_rebuild()?;
        let built = self.fill(&building, records);
        let _worker = self.worker.lock();
        let mut generations = self.generations.write();
        generations.building = None;
        built?;
        generations.current.prune_tombstones();
        building.prune_tombstones();
        let (rebuilt, live) = (live(&building), live(&generations.current));
        if rebuilt < live {
            return Err(IndexError::Incomplete { rebuilt, live });
        }
        generations.current = building;
        Ok(())
    }

    /// Looks whether the graph still finds each of `records`, and searches those that it lost exactly from now on; says
    /// how many those were. Later inserts relink the graph and can cut an old embedding off, rarely; a rebuild heals
    /// it for good. For a background thread, now and then.
    pub fn audit(&self, records: impl Iterator<Item = (u64, Vec<f32>)>) -> Result<usize, IndexError> {
        let (mut records, mut lost) = (records, 0);
        loop {
            let chunk: Vec<_> = records.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Ok(lost);
            }
            // No swap meanwhile: what is not in this graph must not enter beside it, it may have been removed.
            let _worker = self.worker.lock();
            let current = self.generations.read().current.clone();
            let items: Vec<(u64, &[f32])> = chunk.iter().map(|(key, row)| (*key, row.as_slice())).collect();
            lost += current.audit(&items)?;
        }
    }

    /// From here on, drains and removes reach the new graph as well.
    fn begin_rebuild(&self) -> Result<Arc<Generation>, IndexError> {
        let mut building = Generation::new(self.config.clone())?;
        let _worker = self.worker.lock();
        let mut generations = self.generations.write();
        if generations.building.is_some() {
            return Err(IndexError::Rebuilding);
        }
        // The records may have been read before these were removed.
        building.tombstones.extend(generations.current.tombstones.keys());
        let building = Arc::new(building);
        generations.building = Some(building.clone());
        Ok(building)
    }

    fn fill(&self, building: &Generation, records: impl Iterator<Item = (u64, Vec<f32>)>) -> Result<(), IndexError> {
        // What is still in the tail gets there by drain: `remove` would not know that it is there already.
        let mut records = records
            .filter(|(key, _)| *key <= self.watermark.load(Ordering::Acquire) && !building.tombstones.contains(*key));
        loop {
            let chunk: Vec<_> = records.by_ref().take(CHUNK).collect();
            if chunk.is_empty() {
                return Ok(());
            }
            let items: Vec<(u64, &[f32])> = chunk.iter().map(|(key, row)| (*key, row.as_slice())).collect();
            building.absorb(&items)?;
        }
    }

    /// Whether the graph holds this key but must not show it.
    pub fn is_tombstone(&self, key: u64) -> bool {
        self.generations.read().current.tombstones.contains(key)
    }

    /// Sizes, now.
    pub fn stats(&self) -> IndexStats {
        let tail = self.tail.read().len();
        let current = self.generations.read().current.clone();
        IndexStats {
            graph: current.held(),
            tail,
            tombstones: current.tombstones.len(),
            beside: current.beside.len(),
            watermark: self.watermark.load(Ordering::Acquire),
        }
    }

    /// Memory held, in bytes. The graph's engine looks at each embedding to say so: not for every write or every moment.
    pub fn memory_bytes(&self) -> usize {
        let (current, building) = {
            let generations = self.generations.read();
            (generations.current.clone(), generations.building.clone())
        };
        let tail = self.tail.read().memory_bytes();
        tail + current.memory_bytes() + building.map_or(0, |building| building.memory_bytes())
    }
}

/// What a generation holds and may be seen; exact once its tombstones are pruned.
fn live(generation: &Generation) -> usize {
    generation.held().saturating_sub(generation.tombstones.len())
}

#[cfg(test)]
#[path = "live_tests.rs"]
mod tests;
