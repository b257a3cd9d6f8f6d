//! The state machine as a whole, against a plain map: random commands and restarts. Seeds are printed; set `OMMA_SEED` to
//! run one again.

mod comparing;
mod eight_bits;
mod graphs;
mod snapshots;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{DeleteRecords, DropRecords, ImageOutcome, PutRecord, PutRecords};
use omma_proto::v1::PutEffect;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::command::{decode_outcome, encode};
use super::{ImageState, ImagesConfig};
use crate::group::state_machine::{Committed, StateError, StateMachine};
use crate::index::{Storage, dot};
use crate::store::Store;

pub(super) const DIMENSION: usize = 16;
pub(super) const UID: u64 = 7;

pub(super) fn seed() -> u64 {
    let seed = std::env::var("OMMA_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("OMMA_SEED={seed}");
    seed
}

pub(super) fn open(dir: &TempDir) -> ImageState {
    let store = Store::open(dir.path(), 64 << 20, Duration::from_secs(1)).unwrap();
    let config = ImagesConfig { storage: Some(Storage::F16), index_threads: 2, ..ImagesConfig::default() };
    ImageState::open(store, 1, &config).unwrap()
}

pub(super) fn unit(rng: &mut StdRng) -> Vec<f32> {
    let mut v: Vec<f32> = (0..DIMENSION).map(|_| rng.random_range(-1.0..1.0)).collect();
    omma_common::vector::normalise(&mut v, DIMENSION).unwrap();
    v
}

fn put(items: &[(String, Vec<f32>)]) -> Command {
    let record = |(id, v): &(String, Vec<f32>)| PutRecord {
        id: id.clone(),
        embedding: omma_common::vector::to_bytes(v),
        ..PutRecord::default()
    };
    let records = items.iter().map(record).collect();
    Command::Put(PutRecords { dimension: DIMENSION as u32, records, ..PutRecords::default() })
}

pub(super) fn apply(state: &ImageState, index: u64, command: Command) -> ImageOutcome {
    let command = Some(encode("", UID, command));
    let raft = Bytes::from(index.to_le_bytes().to_vec());
    decode_outcome(&state.apply(vec![Committed { index, command }], raft).unwrap()[0])
}

/// A random history, and what it should lead to.
struct History {
    rng: StdRng,
    index: u64,
    model: BTreeMap<String, Vec<f32>>,
}

impl History {
    fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), index: 0, model: BTreeMap::new() }
    }

    fn next(&mut self) -> (u64, Command) {
        self.index += 1;
        let ids: Vec<String> =
            (0..self.rng.random_range(1..8)).map(|_| format!("i{}", self.rng.random_range(0..300))).collect();
        if self.rng.random_bool(0.25) {
            ids.iter().for_each(|id| drop(self.model.remove(id)));
            return (self.index, Command::Delete(DeleteRecords { ids }));
        }
        let items: Vec<_> = ids.into_iter().map(|id| (id, unit(&mut self.rng))).collect();
        self.model.extend(items.iter().cloned());
        (self.index, put(&items))
    }

    fn run(&mut self, state: &ImageState, steps: usize) -> Vec<(u64, Command)> {
        let log: Vec<_> = (0..steps).map(|_| self.next()).collect();
        log.iter().for_each(|(index, command)| drop(apply(state, *index, command.clone())));
        log
    }

    /// The state holds exactly the model: by id, by count, and each image nearest to itself.
    fn check(&self, state: &ImageState) {
        assert_eq!(state.stats().images, self.model.len() as u64);
        let ids: Vec<String> = (0..300).map(|i| format!("i{i}")).collect();
        let found: Vec<_> = ids.iter().filter_map(|id| state.get(UID, id, true).unwrap()).collect();
        assert_eq!(found.len(), self.model.len());
        for image in found {
            let want = &self.model[&image.id];
            assert_eq!(&image.embedding.unwrap().values, want);
            let hits = state.search(UID, want, 3, false).unwrap();
            assert_eq!(hits[0].id, image.id);
            assert_eq!(hits[0].score, dot(want, want));
            assert!(hits.iter().all(|h| self.model.contains_key(&h.id)));
        }
    }
}

pub(super) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let patience = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < patience, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn equals_a_map_also_after_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let mut history = History::new(seed());
    for _ in 0..4 {
        let state = open(&dir);
        history.check(&state);
        history.run(&state, 150);
        history.check(&state);
        until("the tail is moved", || state.stats().tail == 0);
        history.check(&state);
        assert_eq!(state.raft_state().unwrap().unwrap()[..], history.index.to_le_bytes());
        state.flush().unwrap();
    }
}

#[test]
fn a_dropped_collection_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(&dir);
    let mut history = History::new(seed());
    history.run(&state, 100);
    apply(&state, 101, Command::Drop(DropRecords {}));
    assert_eq!(state.stats().images, 0);
    assert!(matches!(state.search(UID, &[1.0; DIMENSION], 3, false), Err(StateError::Dropped)));
    assert!(matches!(state.get(UID, "i1", false), Err(StateError::Dropped)));
    let stored = || super::keys::contents(UID).iter().map(|p| state.contents().table.prefix(p).count()).sum::<usize>();
    until("its records are removed", || stored() == 0);
    let outcome = apply(&state, 102, put(&[("i1".to_owned(), unit(&mut history.rng))]));
    assert!(outcome.effects.is_empty() && outcome.refusal != 0);
}

#[test]
fn searches_find_an_image_that_is_being_replaced_once_and_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(&dir);
    let mut rng = StdRng::seed_from_u64(seed());
    let target = unit(&mut rng);
    let opposite: Vec<f32> = target.iter().map(|x| -x).collect();
    apply(&state, 1, put(&[("target".to_owned(), target.clone()), ("opposite".to_owned(), opposite)]));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let hits = state.search(UID, &target, 3, false).unwrap();
                    assert_eq!(hits.iter().map(|hit| hit.id.as_str()).collect::<Vec<_>>(), ["target", "opposite"]);
                    assert!(state.get(UID, "target", true).unwrap().is_some());
                }
            });
        }
        for index in 2..1500 {
            // A little different each time, so that it is not "unchanged".
            let mut next = target.clone();
            next[0] += 1e-3 * (index % 7) as f32;
            omma_common::vector::normalise(&mut next, DIMENSION).unwrap();
            let effects = apply(&state, index, put(&[("target".to_owned(), next.clone())])).effects;
            assert_eq!(effects, [PutEffect::Replaced as i32]);
            assert_eq!(state.search(UID, &next, 1, false).unwrap()[0].score, dot(&next, &next), "the one before");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
