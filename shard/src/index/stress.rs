//! Everything at once against one index, with the invariants checked all the while.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::suite::clustered;
use super::*;

const DIMENSION: usize = 24;

/// A record in the model: whether it may, must or must not be found.
struct Model {
    vectors: Vec<Vec<f32>>,
    /// What the store holds: written before the index hears of it.
    stored: RwLock<BTreeSet<u64>>,
    /// Inserted and not removed. An entry leaves before `remove` is called, so that what is here must be found.
    live: RwLock<BTreeMap<u64, usize>>,
    /// `remove` has returned.
    removed: Mutex<Vec<u64>>,
}

impl Model {
    fn key(i: usize) -> u64 {
        4096 * (i as u64 + 2)
    }

    fn vector(&self, key: u64) -> &[f32] {
        &self.vectors[(key / 4096 - 2) as usize]
    }

    fn any_live(&self, rng: &mut SmallRng) -> Option<u64> {
        let live = self.live.read();
        let from = Self::key(rng.random_range(0..self.vectors.len()));
        live.range(from..).chain(live.range(..from)).next().map(|(key, _)| *key)
    }
}

/// What the caller does with the candidates: ranks them again with the exact embeddings.
fn best(model: &Model, query: &[f32], hits: &[Candidate]) -> Option<(u64, f32)> {
    let exact = hits.iter().map(|hit| (hit.key, dot(query, model.vector(hit.key))));
    exact.min_by(|a, b| omma_common::topk::rank(a.1, &a.0, b.1, &b.0))
}

fn search_and_check(index: &LiveIndex, model: &Model, rng: &mut SmallRng) {
    let gone = { model.removed.lock().clone() };
    let Some(key) = model.any_live(rng) else { return };
    let query = model.vector(key).to_vec();
    let hits = index.search(&query, 3).unwrap();
    assert!(hits.iter().all(|hit| gone.binary_search(&hit.key).is_err()), "a removed key came back: {hits:?}");
    let mut keys: Vec<_> = hits.iter().map(|hit| hit.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), hits.len(), "a key twice");
    // Removed while this searched: then it need not be found.
    if model.live.read().contains_key(&key) {
        let (first, _) = best(model, &query, &hits).expect("a hit");
        assert_eq!(first, key, "a live image is not the first for its own embedding: {hits:?}, {:?}", index.stats());
    }
}

fn write(index: &LiveIndex, model: &Model, rng: &mut SmallRng) {
    for i in 0..model.vectors.len() {
        let key = Model::key(i);
        model.stored.write().insert(key);
        index.insert(key, &model.vectors[i]);
        model.live.write().insert(key, i);
        if rng.random_bool(0.35)
            && let Some(victim) = model.any_live(rng)
        {
            model.live.write().remove(&victim);
            model.stored.write().remove(&victim);
            index.remove(victim);
            let mut removed = model.removed.lock();
            let at = removed.partition_point(|key| *key < victim);
            removed.insert(at, victim);
        }
        if rng.random_bool(0.02) {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Drains, exports and restores, rebuilds: what the background worker does.
fn work(index: &LiveIndex, model: &Model, rng: &mut SmallRng, writing: &AtomicBool) -> (usize, usize) {
    let (mut exports, mut rebuilds, mut drains) = (0, 0, 0);
    while writing.load(Ordering::SeqCst) || index.stats().tail > 0 {
        index.drain(rng.random_range(1..600)).unwrap();
        drains += 1;
        if drains % 5 == 0 {
            let export = index.export().unwrap();
            let gone = model.removed.lock().clone();
            let back = LiveIndex::restore(IndexConfig::new(DIMENSION), &export.bytes, export.watermark, gone).unwrap();
            assert_eq!(back.stats().graph, export.count);
            for _ in 0..20 {
                let Some(key) = model.any_live(rng).filter(|key| *key <= export.watermark) else { continue };
                let hits = back.search(model.vector(key), 3).unwrap();
                assert!(hits.iter().any(|hit| hit.key == key), "a restored graph lost a key");
            }
            exports += 1;
        }
        if index.needs_rebuild() {
            rebuild(index, model);
            rebuilds += 1;
        }
    }
    (exports, rebuilds)
}

fn rebuild(index: &LiveIndex, model: &Model) {
    // Read when asked for first, as a scan of the store is.
    let records = std::iter::once_with(|| model.stored.read().clone()).flatten();
    std::thread::scope(|scope| {
        // Draining goes on beside it.
        scope.spawn(|| {
            for _ in 0..4 {
                index.drain(50).unwrap();
            }
        });
        index.rebuild(records.map(|key| (key, model.vector(key).to_vec()))).unwrap();
    });
}

fn run(seed: u64, count: usize) {
    println!("seed {seed}");
    let mut rng = SmallRng::seed_from_u64(seed);
    let model = Model {
        vectors: clustered(&mut rng, count, DIMENSION, 40),
        stored: RwLock::default(),
        live: RwLock::default(),
        removed: Mutex::default(),
    };
    let index = LiveIndex::new(IndexConfig::new(DIMENSION)).unwrap();
    let (writing, working, searches) = (AtomicBool::new(true), AtomicBool::new(true), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for n in 1..=4 {
            let mut rng = SmallRng::seed_from_u64(seed ^ n);
            let (index, model, working, searches) = (&index, &model, &working, &searches);
            scope.spawn(move || {
                while working.load(Ordering::SeqCst) {
                    search_and_check(index, model, &mut rng);
                    searches.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let worker = scope.spawn(|| {
            // Whatever happens, the searchers end: a panic here must show, not hang.
            let _end = OnDrop(|| working.store(false, Ordering::SeqCst));
            work(&index, &model, &mut SmallRng::seed_from_u64(seed ^ 99), &writing)
        });
        {
            let _end = OnDrop(|| writing.store(false, Ordering::SeqCst));
            write(&index, &model, &mut rng);
        }
        let (exports, rebuilds) = worker.join().unwrap();
        println!("{exports} exports, {rebuilds} rebuilds, {} searches", searches.load(Ordering::Relaxed));
        assert!(exports > 0 && rebuilds > 0, "{exports} exports, {rebuilds} rebuilds");
    });
    assert!(searches.load(Ordering::Relaxed) > 100);
    after(&index, &model);
}

/// At rest, every live key is first for its own embedding, and nothing else is left but tombstones.
fn after(index: &LiveIndex, model: &Model) {
    let (live, stats) = (model.live.read(), index.stats());
    assert_eq!((stats.tail, stats.graph - stats.tombstones), (0, live.len()));
    for key in live.keys() {
        let query = model.vector(*key);
        let first = best(model, query, &index.search(query, 3).unwrap());
        assert_eq!(first.map(|hit| hit.0), Some(*key), "{stats:?}");
    }
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// `OMMA_SEED=…` replays what one run did (but for the threads' interleaving).
#[test]
fn nothing_is_lost_and_nothing_returns() {
    let seed = std::env::var("OMMA_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    run(seed, 6000);
}

#[test]
fn searches_wait_for_adding_only_briefly() {
    let vectors = clustered(&mut SmallRng::seed_from_u64(5), 3000, DIMENSION, 30);
    let index = LiveIndex::new(IndexConfig::new(DIMENSION)).unwrap();
    vectors.iter().enumerate().for_each(|(i, v)| index.insert(Model::key(i), v));
    let draining = AtomicBool::new(true);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _end = OnDrop(|| draining.store(false, Ordering::SeqCst));
            while index.drain(1000).unwrap() > 0 {}
        });
        while draining.load(Ordering::SeqCst) {
            let started = Instant::now();
            index.search(&vectors[7], 5).unwrap();
            assert!(started.elapsed() < Duration::from_secs(1));
        }
    });
    assert_eq!(index.stats().graph, 3000);
}
