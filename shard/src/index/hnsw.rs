//! The HNSW graph: the only file that names usearch.
//!
//! The engine's methods all take `&self` and promise thread safety, but not all of it holds (2.26.6): `reserve` and
//! `load` move what searches read, and a search takes no node locks, so that beside an insert it can meet a list of
//! neighbours that is just being rewritten (and miss what hangs on it) or an entry node of a level that is not there
//! yet. So searches share the read side of a lock, and inserts, in short slices, own the write side; inserts among
//! each other do lock nodes and run in parallel.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use half::slice::{HalfBitsSliceExt, HalfFloatSliceExt};
use omma_common::topk::TopK;
use parking_lot::{RwLock, RwLockWriteGuard};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind, VectorType, ffi::Matches};

use super::pace::{self, Pace};
use super::slots::Slots;
use super::{Allow, Candidate, IndexConfig, IndexError, Storage, VectorIndex, check, eights, hnsw_format};

/// How long a search waits for a thread slot.
const SLOT_WAIT: Duration = Duration::from_secs(5);
/// Reserved at first; doubled when full.
const FIRST_CAPACITY: usize = 4096;

/// A graph of embeddings. Nothing is ever removed from it.
pub struct Hnsw {
    index: RwLock<Index>,
    config: IndexConfig,
    slots: Slots,
    /// Searches in or before the lock.
    searching: AtomicUsize,
    adders: usize,
}

impl Hnsw {
    /// An empty graph.
    pub fn new(config: IndexConfig) -> Result<Self, IndexError> {
        Ok(Self::over(engine(&config)?, config))
    }

    /// A graph out of the bytes of [`Hnsw::export`] under the same configuration.
    ///
    /// Every length, level and neighbour is checked before the engine sees them: damaged bytes are an error.
    pub fn restore(config: IndexConfig, bytes: &[u8]) -> Result<Self, IndexError> {
        let count = hnsw_format::check(bytes, &config).map_err(|why| IndexError::Checkpoint(why.to_string()))?;
        let index = engine(&config)?;
        if count > 0 {
            index.load_from_buffer(bytes).map_err(|e| IndexError::Checkpoint(e.to_string()))?;
            // Loading takes the expansions' defaults and no room to grow.
            index.change_expansion_add(config.expansion_add);
            index.change_expansion_search(config.expansion_search);
            reserve(&index, count + count / 4 + FIRST_CAPACITY, config.threads)?;
        }
        let loaded = (index.size(), index.dimensions(), index.connectivity());
        if loaded != (count, config.dimension, config.connectivity) {
            return Err(IndexError::Checkpoint(format!("size, dimension and connectivity became {loaded:?}")));
        }
        Ok(Self::over(index, config))
    }

    fn over(index: Index, config: IndexConfig) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            index: RwLock::new(index),
            slots: Slots::new(config.threads),
            searching: AtomicUsize::new(0),
            adders: config.threads.min(cores),
            config,
        }
    }

    /// So many times the candidates that are wanted should be asked of [`Hnsw::scan`].
    pub(super) fn scanned(&self) -> usize {
        self.config.storage.scanned()
    }

    /// Candidates that a search keeps, if it is asked for fewer.
    pub(super) fn expansion_search(&self) -> usize {
        self.config.expansion_search
    }

    /// The graph as bytes. Searches go on; whoever calls keeps inserts away, else they and later searches wait.
    pub fn export(&self) -> Result<Vec<u8>, IndexError> {
        let index = self.index.read();
        let mut bytes = vec![0; index.serialized_length()];
        index.save_to_buffer(&mut bytes).map_err(refused)?;
        Ok(bytes)
    }

    /// Threads that add at once.
    pub(super) fn adders(&self) -> usize {
        self.adders
    }

    /// Which of `items` a search that keeps few candidates does not find by their own embedding: what is left for
    /// [`Hnsw::unfound`]. A full search starts where a small one does and goes further, so it finds the others too, but
    /// for rare ones (fewer than one in a hundred of what it misses), which an audit meets.
    pub(super) fn unproved<'a>(&self, items: &[(u64, &'a [f32])]) -> Result<Vec<(u64, &'a [f32])>, IndexError> {
        const KEPT: usize = 24;
        const LOOK_AT: usize = 4;
        let mut unproved = Vec::new();
        self.in_slices(items, |index, slice| {
            // The engine knows one number for all searches: it may differ only while there are no others.
            index.change_expansion_search(KEPT.min(self.config.expansion_search));
            let looked = in_parallel(slice, self.adders, |part| {
                let finds = |key, found: &Matches| found.keys.contains(key);
                let looked = part.iter().map(|(key, row)| Ok(finds(key, &self.search_in(index, row, LOOK_AT, None)?)));
                looked.collect::<Result<Vec<bool>, IndexError>>()
            });
            index.change_expansion_search(self.config.expansion_search);
            let found = looked?.into_iter().flatten();
            unproved.extend(slice.iter().zip(found).filter(|(_, found)| !found).map(|(item, _)| *item));
            Ok(())
        })?;
        Ok(unproved)
    }

    /// Which of `items` a search for their own embedding does not find. One that drowns among equals counts as found:
    /// its equals are as near. On up to `threads` threads.
    pub(super) fn unfound<'a>(
        &self,
        items: &[(u64, &'a [f32])],
        threads: usize,
    ) -> Result<Vec<(u64, &'a [f32])>, IndexError> {
        // In eight bits more are equally near.
        const EQUAL: f32 = 1e-4;
        let look_at = if self.in_eights() { self.config.expansion_search.max(32) } else { 32 };
        let lost = |part: &[(u64, &'a [f32])]| -> Result<Vec<(u64, &'a [f32])>, IndexError> {
            let mut lost = Vec::new();
            for &(key, embedding) in part {
                let hits = self.search(embedding, look_at, None)?;
                let own = super::dot(embedding, embedding);
                let drowns = hits.len() == look_at && hits.last().is_some_and(|worst| worst.score >= own - EQUAL);
                if !drowns && !hits.iter().any(|hit| hit.key == key) {
                    lost.push((key, embedding));
                }
            }
            Ok(lost)
        };
        let parts = in_parallel(items, threads, lost)?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// The best `k` of `keys`, by looking at each; unknown ones are passed over.
    pub(super) fn scan(
        &self,
        query: &[f32],
        k: usize,
        keys: &mut dyn Iterator<Item = u64>,
    ) -> Result<Vec<Candidate>, IndexError> {
        /// Inserts get their turn between so many.
        const SLICE: usize = 512;
        check(query, self.config.dimension)?;
        let _counted = Counted::new(&self.searching);
        let mut reader = RowReader::new(&self.config);
        let (mut best, error) = (TopK::new(k), self.config.storage.error(query));
        loop {
            let slice: Vec<u64> = keys.take(SLICE).collect();
            if slice.is_empty() {
                return Ok(best.into_sorted());
            }
            let index = self.index.read();
            for key in slice {
                if let Some(row) = reader.read(&index, key)? {
                    best.push(Candidate { key, score: super::dot(query, row), error });
                }
            }
        }
    }

    /// Hands `items` to `work` in slices of a few milliseconds, each with the graph to itself, and between them lets
    /// searches have their turn.
    fn in_slices<'a, 'b>(
        &self,
        items: &'b [(u64, &'a [f32])],
        mut work: impl FnMut(&Index, &'b [(u64, &'a [f32])]) -> Result<(), IndexError>,
    ) -> Result<(), IndexError> {
        let (mut pace, mut rest) = (Pace::new(self.adders), items);
        while !rest.is_empty() {
            let (slice, later) = rest.split_at(pace.size().min(rest.len()));
            let index = self.index.write();
            let started = Instant::now();
            let done = work(&index, slice);
            let elapsed = started.elapsed();
            RwLockWriteGuard::unlock_fair(index);
            done?;
            std::thread::sleep(pace::rest(elapsed, self.searching.load(Ordering::Relaxed) > 0));
            pace = pace.after(slice.len(), elapsed);
            rest = later;
        }
        Ok(())
    }

    fn add_slice(&self, index: &Index, items: &[(u64, &[f32])]) -> Result<(), IndexError> {
        let need = index.size() + items.len();
        if need > index.capacity() {
            reserve(index, need.max(2 * index.capacity()).max(FIRST_CAPACITY), self.config.threads)?;
        }
        in_parallel(items, self.adders, |part| {
            part.iter()
                .filter(|(key, _)| !index.contains(*key))
                .try_for_each(|(key, embedding)| self.insert(index, *key, embedding))
        })?;
        Ok(())
    }

    fn in_eights(&self) -> bool {
        self.config.storage == Storage::I8
    }

    fn insert(&self, index: &Index, key: u64, embedding: &[f32]) -> Result<(), IndexError> {
        match self.in_eights() {
            true => index.add(key, &eights::from(embedding)).map_err(refused),
            false => index.add(key, embedding).map_err(refused),
        }
    }

    fn search_in(
        &self,
        index: &Index,
        query: &[f32],
        k: usize,
        allow: Option<Allow<'_>>,
    ) -> Result<Matches, IndexError> {
        match self.in_eights() {
            true => search(index, &eights::from(query), k, allow),
            false => search(index, query, k, allow),
        }
    }

    fn candidates(&self, query: &[f32], found: Matches) -> Vec<Candidate> {
        let error = self.config.storage.error(query);
        let scored = found.keys.into_iter().zip(found.distances);
        let mut hits: Vec<Candidate> =
            scored.map(|(key, distance)| Candidate { key, score: 1.0 - distance, error }).collect();
        hits.sort_by(|a, b| omma_common::topk::rank(a.score, &a.key, b.score, &b.key));
        hits
    }
}

impl VectorIndex for Hnsw {
    /// On an error some may have been added.
    fn add(&self, items: &[(u64, &[f32])]) -> Result<(), IndexError> {
        items.iter().try_for_each(|(_, embedding)| check(embedding, self.config.dimension))?;
        self.in_slices(items, |index, slice| self.add_slice(index, slice))
    }

    fn search(&self, query: &[f32], k: usize, allow: Option<Allow<'_>>) -> Result<Vec<Candidate>, IndexError> {
        check(query, self.config.dimension)?;
        let _counted = Counted::new(&self.searching);
        let Some(_slot) = self.slots.take(SLOT_WAIT) else {
            return Err(IndexError::Busy { waited_ms: SLOT_WAIT.as_millis() as u64 });
        };
        let index = self.index.read();
        let k = k.min(index.size());
        if k == 0 {
            return Ok(Vec::new());
        }
        Ok(self.candidates(query, self.search_in(&index, query, k, allow)?))
    }

    fn contains(&self, key: u64) -> bool {
        self.index.read().contains(key)
    }

    fn len(&self) -> usize {
        self.index.read().size()
    }

    fn memory_bytes(&self) -> usize {
        self.index.read().memory_usage()
    }
}

fn search<T: VectorType>(
    index: &Index,
    query: &[T],
    k: usize,
    allow: Option<Allow<'_>>,
) -> Result<Matches, IndexError> {
    let found = match allow {
        None => index.search(query, k),
        Some(allow) => index.filtered_search(query, k, allow),
    };
    found.map_err(refused)
}

/// Reads embeddings out of the graph, one after the other.
struct RowReader {
    /// Converted here, which is quicker than in the engine; empty for other precisions.
    halves: Vec<i16>,
    bits: Vec<u16>,
    /// Empty for other precisions.
    eights: Vec<i8>,
    row: Vec<f32>,
}

impl RowReader {
    fn new(config: &IndexConfig) -> Self {
        let halves = if config.storage == Storage::F16 { config.dimension } else { 0 };
        let eights = if config.storage == Storage::I8 { config.dimension } else { 0 };
        Self {
            halves: vec![0; halves],
            bits: vec![0; halves],
            eights: vec![0; eights],
            row: vec![0.0; config.dimension],
        }
    }

    /// `None` if the graph does not hold it.
    fn read(&mut self, index: &Index, key: u64) -> Result<Option<&[f32]>, IndexError> {
        let found = if !self.eights.is_empty() {
            let found = index.get(key, &mut self.eights).map_err(refused)?;
            eights::write(&self.eights, &mut self.row);
            found
        } else if self.halves.is_empty() {
            index.get(key, &mut self.row).map_err(refused)?
        } else {
            let found = index.get(key, usearch::f16::from_mut_i16s(&mut self.halves)).map_err(refused)?;
            self.bits.iter_mut().zip(&self.halves).for_each(|(bits, half)| *bits = *half as u16);
            self.bits.reinterpret_cast::<half::f16>().convert_to_f32_slice(&mut self.row);
            found
        };
        Ok((found == 1).then_some(self.row.as_slice()))
    }
}

/// Counts a search for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn engine(config: &IndexConfig) -> Result<Index, IndexError> {
    if config.dimension == 0 || config.threads == 0 || config.expansion_add == 0 || config.expansion_search == 0 {
        return Err(IndexError::Config("dimension, threads and expansions must be at least 1"));
    }
    if config.connectivity < 2 {
        return Err(IndexError::Config("connectivity must be at least 2"));
    }
    let quantization = match config.storage {
        Storage::F32 => ScalarKind::F32,
        Storage::F16 => ScalarKind::F16,
        Storage::Bf16 => ScalarKind::BF16,
        Storage::I8 => ScalarKind::I8,
    };
    let options = IndexOptions {
        dimensions: config.dimension,
        // In eight bits each embedding has a scale of its own.
        metric: if config.storage == Storage::I8 { MetricKind::Cos } else { MetricKind::IP },
        quantization,
        connectivity: config.connectivity,
        expansion_add: config.expansion_add,
        expansion_search: config.expansion_search,
        multi: false,
    };
    let index = Index::new(&options).map_err(refused)?;
    reserve(&index, FIRST_CAPACITY, config.threads)?;
    Ok(index)
}

/// Only while nobody searches or adds: it moves what they read.
fn reserve(index: &Index, capacity: usize, threads: usize) -> Result<(), IndexError> {
    index.reserve_capacity_and_threads(capacity, threads).map_err(refused)
}

fn refused(error: impl std::fmt::Display) -> IndexError {
    IndexError::Engine(error.to_string())
}

/// Runs `work` over `items` in up to `threads` parts at once, one of them on this thread; a few items are not worth
/// another.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&[T]) -> Result<R, IndexError> + Sync,
) -> Result<Vec<R>, IndexError> {
    const WORTH_A_THREAD: usize = 4;
    let part = items.len().div_ceil(threads.max(1)).max(WORTH_A_THREAD);
    let (mine, others) = items.split_at(part.min(items.len()));
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = others.chunks(part).map(|part| scope.spawn(move || work(part))).collect();
        let mine = work(mine);
        // All of them, before the first error is told.
        let joined: Vec<_> = running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(IndexError::Engine("a worker thread panicked".into()))))
            .collect();
        std::iter::once(mine).chain(joined).collect()
    })
}
