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
use super::{Candidate, IndexConfig, IndexError, VectorIndex, check, checkpoint};

/// Tombstones per embedding in the graph from which a rebuild pays: searches wade through them, and recall suffers.
const REBUILD_FRACTION: f64 = 0.25;
/// Below so many tombstones a rebuild is not worth the name.
const REBUILD_AT_LEAST: usize = 64;
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
    /// Memory held, in bytes.
    pub memory_bytes: usize,
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
        let parts = checkpoint::read(graph, config.dimension)?;
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
            worker: Mutex::new(()),
            config,
        }
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
        check(query, self.config.dimension)?;
        if k == 0 {
            return Ok(Vec::new());
        }
        let wanted = k.saturating_add((k / 4).clamp(8, 64));
        let mut best = TopK::new(wanted);
        // The tail first: what leaves it meanwhile is in the graph already.
        let segments = self.tail.read().begin_search(query, &mut best);
        segments.iter().for_each(|segment| segment.scan(query, &mut best));
        let mut hits = best.into_sorted();

        let generation = self.generations.read().current.clone();
        let mut seen: HashSet<u64> = hits.iter().map(|hit| hit.key).collect();
        // Exact scores before approximate ones of the same key.
        let mut from_graph = generation.search(query, wanted)?;
        from_graph.sort_by_key(|hit| hit.approximate);
        hits.extend(from_graph.into_iter().filter(|hit| seen.insert(hit.key)));
        // Once more, for what was removed while this searched.
        hits.retain(|hit| !generation.tombstones.contains(hit.key));
        hits.sort_by(|a, b| rank(a.score, &a.key, b.score, &b.key));
        hits.truncate(wanted);
        Ok(hits)
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
        self.tail.write().forget_all(chunk.iter().map(|(key, _)| *key));
        Ok(chunk.len())
    }

    /// The graph as bytes, with its watermark. Searches, inserts and removes go on; [`LiveIndex::drain`] waits.
    pub fn export(&self) -> Result<Export, IndexError> {
        let _worker = self.worker.lock();
        let generation = self.generations.read().current.clone();
        let (graph, beside) = (generation.graph.export()?, generation.beside.items());
        let bytes = checkpoint::write(self.config.dimension, &beside, &graph);
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

    /// Sizes, now.
    pub fn stats(&self) -> IndexStats {
        let (tail, tail_bytes) = {
            let tail = self.tail.read();
            (tail.len(), tail.memory_bytes())
        };
        let (current, building) = {
            let generations = self.generations.read();
            (generations.current.clone(), generations.building.clone())
        };
        IndexStats {
            graph: current.held(),
            tail,
            tombstones: current.tombstones.len(),
            beside: current.beside.len(),
            watermark: self.watermark.load(Ordering::Acquire),
            memory_bytes: tail_bytes + current.memory_bytes() + building.map_or(0, |building| building.memory_bytes()),
        }
    }
}

/// What a generation holds and may be seen; exact once its tombstones are pruned.
fn live(generation: &Generation) -> usize {
    generation.held().saturating_sub(generation.tombstones.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    const DIMENSION: usize = 16;

    fn filled(count: usize) -> (LiveIndex, Vec<Vec<f32>>) {
        let vectors = super::super::suite::clustered(&mut SmallRng::seed_from_u64(21), count, DIMENSION, 10);
        let index = LiveIndex::new(IndexConfig::new(DIMENSION)).unwrap();
        vectors.iter().enumerate().for_each(|(i, v)| index.insert(key(i), v));
        (index, vectors)
    }

    fn key(i: usize) -> u64 {
        4096 * (i as u64 + 2)
    }

    fn first(index: &LiveIndex, query: &[f32]) -> Option<u64> {
        index.search(query, 1).unwrap().first().map(|hit| hit.key)
    }

    #[test]
    fn found_before_between_and_after_draining() {
        let (index, vectors) = filled(500);
        let all_found = || (0..500).all(|i| first(&index, &vectors[i]) == Some(key(i)));
        assert!(all_found());
        assert!(!index.search(&vectors[0], 1).unwrap()[0].approximate);
        assert_eq!(index.drain(200).unwrap(), 200);
        assert_eq!((index.stats().graph, index.stats().tail, index.stats().watermark), (200, 300, key(199)));
        assert!(all_found());
        assert!(index.search(&vectors[0], 1).unwrap()[0].approximate);
        assert_eq!((index.drain(1000).unwrap(), index.drain(1000).unwrap()), (300, 0));
        assert!(all_found());
    }

    #[test]
    fn more_candidates_than_asked_for_and_all_different() {
        let (index, vectors) = filled(300);
        index.drain(150).unwrap();
        let hits = index.search(&vectors[0], 10).unwrap();
        assert_eq!((hits.len(), hits.iter().map(|hit| hit.key).collect::<HashSet<_>>().len()), (18, 18));
        assert!(index.search(&vectors[0], 0).unwrap().is_empty());
    }

    #[test]
    fn what_is_removed_is_gone_wherever_it_was() {
        let (index, vectors) = filled(200);
        index.drain(100).unwrap();
        for i in [5, 150] {
            index.remove(key(i));
            assert_ne!(first(&index, &vectors[i]), Some(key(i)));
        }
        assert_eq!((index.stats().tail, index.stats().tombstones), (99, 1));
        index.remove(key(150));
        index.remove(1 << 50);
        assert_eq!(index.stats().tombstones, 1, "what never came to the graph needs no tombstone");
        index.drain(1000).unwrap();
        assert_ne!(first(&index, &vectors[150]), Some(key(150)));
        assert_eq!(index.stats().graph, 199);
    }

    #[test]
    fn a_rebuild_leaves_the_living_only() {
        let (index, vectors) = filled(400);
        index.drain(1000).unwrap();
        (0..99).for_each(|i| index.remove(key(i)));
        assert!(!index.needs_rebuild());
        index.remove(key(99));
        assert!(index.needs_rebuild());
        // Removed ones among the records do no harm.
        index.rebuild((50..400).map(|i| (key(i), vectors[i].clone()))).unwrap();
        assert_eq!((index.stats().graph, index.stats().tombstones), (300, 0));
        assert!(!index.needs_rebuild());
        assert!((100..400).all(|i| first(&index, &vectors[i]) == Some(key(i))));
        assert!((0..100).all(|i| index.search(&vectors[i], 50).unwrap().iter().all(|hit| hit.key >= key(100))));
    }

    #[test]
    fn a_rebuild_that_misses_records_changes_nothing() {
        let (index, vectors) = filled(200);
        index.drain(1000).unwrap();
        index.remove(key(0));
        let some = (0..150).map(|i| (key(i), vectors[i].clone()));
        assert_eq!(index.rebuild(some), Err(IndexError::Incomplete { rebuilt: 149, live: 199 }));
        assert!((1..200).all(|i| first(&index, &vectors[i]) == Some(key(i))));
        let bad = (0..200).map(|i| (key(i), vec![f32::NAN; DIMENSION]));
        assert_eq!(index.rebuild(bad), Err(IndexError::NotFinite));
        index.rebuild((0..200).map(|i| (key(i), vectors[i].clone()))).unwrap();
    }

    #[test]
    fn a_checkpoint_brings_back_graph_tombstones_and_beside() {
        let (index, vectors) = filled(300);
        index.drain(250).unwrap();
        let lost = vec![0.25; DIMENSION];
        index.generations.read().current.beside.add(&[(4097, &lost)]);
        index.remove(key(7));
        let export = index.export().unwrap();
        assert_eq!((export.watermark, export.count), (key(249), 251));
        let config = IndexConfig::new(DIMENSION);
        let back = LiveIndex::restore(config.clone(), &export.bytes, export.watermark, [key(7), key(299)]).unwrap();
        assert_eq!((back.stats().tombstones, back.stats().tail, back.stats().beside), (1, 0, 1));
        assert_eq!(back.stats().watermark, key(249));
        assert_ne!(first(&back, &vectors[7]), Some(key(7)));
        assert_eq!(first(&back, &lost), Some(4097));
        (250..300).for_each(|i| back.insert(key(i), &vectors[i]));
        assert!((8..300).all(|i| first(&back, &vectors[i]) == Some(key(i))));
        for cut in [0, 10, 25, 60, export.bytes.len() - 1] {
            let cut = LiveIndex::restore(config.clone(), &export.bytes[..cut], export.watermark, []);
            assert!(matches!(cut, Err(IndexError::Checkpoint(_))));
        }
    }

    #[test]
    fn an_audit_finds_again_what_the_graph_lost() {
        let (index, vectors) = filled(100);
        index.drain(1000).unwrap();
        let other = |i: usize| vectors[i].iter().map(|x| -x).collect::<Vec<_>>();
        // To the graph, these are images that it has somewhere else than where they are.
        let records = [(key(1), other(1)), (key(2), vectors[2].clone()), (1 << 50, other(2))];
        assert_eq!(index.audit(records.clone().into_iter()).unwrap(), 1);
        assert_eq!(first(&index, &other(1)), Some(key(1)));
        assert_eq!(index.audit(records.into_iter()).unwrap(), 0);
        assert_eq!(index.stats().beside, 1, "what the graph never had stays out");
    }

    #[test]
    fn many_equal_images_hide_nothing_else() {
        let (index, vectors) = filled(1500);
        let copies = 700;
        (0..copies).for_each(|i| index.insert(key(1500 + i), &vectors[3]));
        (0..).find(|_| index.drain(300).unwrap() == 0);
        let hits = index.search(&vectors[3], 20).unwrap();
        assert!(hits.iter().take(20).all(|hit| hit.score > 0.999));
        let lost: Vec<_> = (4..1500).filter(|&i| first(&index, &vectors[i]) != Some(key(i))).collect();
        assert!(lost.is_empty(), "{lost:?}, {:?}", index.stats());
    }

    #[test]
    fn no_embedding_is_left_out_without_failing() {
        let (index, _) = filled(10);
        index.insert(1 << 40, [f32::NAN; DIMENSION]);
        index.insert(1 << 40, [1.0; 3]);
        assert_eq!(index.stats().tail, 10);
        assert_eq!(index.search(&[1.0; 3], 1), Err(IndexError::Dimension { expected: DIMENSION, actual: 3 }));
    }
}
