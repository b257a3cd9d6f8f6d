//! The state machine as a whole, against a plain map: random commands, restarts, and snapshots that are read while
//! more is applied. Seeds are printed; set `OMMA_SEED` to run one again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{DeleteRecords, DropRecords, ImageOutcome, PutRecord, PutRecords};
use omma_proto::v1::{PutEffect, Quantization};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::command::{decode_outcome, encode};
use super::digests::compare;
use super::recall::{Answered, Recall};
use super::{ImageState, ImagesConfig, keys, offline};
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
    let config = ImagesConfig { storage: Storage::F16, index_threads: 2, ..ImagesConfig::default() };
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
fn a_snapshot_read_while_more_is_applied_leads_to_the_same_state() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, follower) = (open(&from), open(&to));
    let mut history = History::new(seed());
    history.run(&leader, 400);

    let (raft, chunks) = leader.snapshot().unwrap();
    assert_eq!(raft[..], 400u64.to_le_bytes());
    let later = history.run(&leader, 200);
    follower.install(raft, chunks).unwrap();

    // Until it has applied what the snapshot may have seen of the future, it does not serve.
    assert!(matches!(follower.get(UID, "i0", false), Err(StateError::Settling)));
    assert!(follower.stats().digest.is_empty());
    for (index, command) in later {
        apply(&follower, index, command);
    }
    history.check(&follower);
    assert_eq!(follower.stats().digest, leader.stats().digest);
    assert_eq!(follower.raft_state().unwrap(), leader.raft_state().unwrap());

    // And it is all there after a restart.
    follower.flush().unwrap();
    drop(follower);
    let follower = open(&to);
    history.check(&follower);
    assert_eq!(follower.stats().digest, leader.stats().digest);
}

#[test]
fn images_that_change_while_a_snapshot_is_read_are_in_it_once() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, follower) = (open(&from), open(&to));
    let mut rng = StdRng::seed_from_u64(seed());
    let items: Vec<_> = (0..9_000).map(|i| (format!("i{i}"), unit(&mut rng))).collect();
    for (index, chunk) in (1..).zip(items.chunks(100)) {
        apply(&leader, index, put(chunk));
    }
    let (raft, mut chunks) = leader.snapshot().unwrap();
    let first = chunks.next().unwrap();

    // Of images that were read already, and of some that were not: replaced; replaced and deleted; deleted and put.
    let mut later = vec![];
    for from in [0, 8_900] {
        let ids: Vec<_> = (from..from + 30).map(|i| format!("i{i}")).collect();
        let some = |from: usize, rng: &mut StdRng| -> Vec<_> {
            ids[from..from + 20].iter().map(|id| (id.clone(), unit(rng))).collect()
        };
        later.push(put(&some(0, &mut rng)));
        later.push(Command::Delete(DeleteRecords { ids: ids[10..30].to_vec() }));
        later.push(put(&some(10, &mut rng)[10..]));
    }
    for (index, command) in (91..).zip(later.clone()) {
        apply(&leader, index, command);
    }
    let rest: Vec<_> = chunks.collect();
    assert!(!rest.is_empty(), "the snapshot must be read in several pieces for this");
    follower.install(raft, Box::new(std::iter::once(first).chain(rest))).unwrap();
    for (index, command) in (91..).zip(later) {
        apply(&follower, index, command);
    }
    assert_eq!(leader.stats().images, 9_000 - 20);
    assert_eq!((follower.stats().images, follower.stats().digest), (leader.stats().images, leader.stats().digest));
    for (id, old) in [&items[0], &items[8_900]] {
        let hit = &follower.search(UID, old, 1, false).unwrap()[0];
        assert!(hit.id != *id || hit.score < 0.999, "{id} is found where it was");
    }
}

#[test]
fn graphs_are_audited_once_after_each_change() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed());
    let state = open(&dir);
    for round in 1..3 {
        let items: Vec<_> = (0..40).map(|i| (format!("{round}-{i}"), unit(&mut rng))).collect();
        apply(&state, round, put(&items));
        let collection = state.contents().collections.live(UID).unwrap();
        until("the graph is audited", || collection.audit.lock().passed() == Some(keys::record_key(round, 39)));
    }
}

#[test]
fn a_quiet_snapshot_serves_at_once_and_replaces_what_was_there() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, follower) = (open(&from), open(&to));
    let mut history = History::new(seed());
    history.run(&leader, 100);
    apply(&follower, 1, put(&[("stale".to_owned(), unit(&mut history.rng))]));
    let (raft, chunks) = leader.snapshot().unwrap();
    follower.install(raft, chunks).unwrap();
    history.check(&follower);
    assert!(follower.get(UID, "stale", false).unwrap().is_none());
    assert_eq!(follower.stats().digest, leader.stats().digest);
}

#[test]
fn a_damaged_snapshot_changes_nothing() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, follower) = (open(&from), open(&to));
    let mut history = History::new(seed());
    history.run(&leader, 50);
    let mut own = History::new(1);
    own.run(&follower, 50);
    let (raft, chunks) = leader.snapshot().unwrap();
    let cut: Vec<_> = chunks.map(|c| c.map(|b| b.slice(..b.len().saturating_sub(9)))).collect();
    assert!(matches!(follower.install(raft, Box::new(cut.into_iter())), Err(StateError::Damaged { .. })));
    own.check(&follower);
}

#[test]
fn restarts_from_a_checkpoint_and_from_a_damaged_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed());
    let state = open(&dir);
    let items: Vec<_> = (0..4_000).map(|i| (format!("i{i}"), unit(&mut rng))).collect();
    for (index, chunk) in (1..).zip(items.chunks(100)) {
        apply(&state, index, put(chunk));
    }
    until("a checkpoint is written", || state.stats().checkpoint > 0);
    until("the tail is moved", || state.stats().tail == 0);
    apply(&state, 41, Command::Delete(DeleteRecords { ids: vec!["i0".into()] }));
    state.flush().unwrap();
    let (covered, digest) = (state.stats().checkpoint, state.stats().digest);
    drop(state);

    let expect_all = |state: &ImageState| {
        for (id, v) in items.iter().skip(1).step_by(97) {
            assert_eq!(&state.search(UID, v, 1, false).unwrap()[0].id, id);
        }
        assert_ne!(state.search(UID, &items[0].1, 1, false).unwrap()[0].id, "i0");
        assert_eq!(state.stats().digest, digest);
    };
    let state = open(&dir);
    assert_eq!(state.stats().checkpoint, covered);
    assert!(state.stats().graph > 0, "nothing is built again that was checkpointed");
    expect_all(&state);
    drop(state);

    super::checkpoint::spoil(&dir.path().join("checkpoints/1.0"), UID, b"c\0\0\0\0");
    let state = open(&dir);
    until("the graph is built again", || (state.stats().tail, state.stats().graph) == (0, 3_999));
    expect_all(&state);
    until("it is checkpointed again", || state.stats().checkpoint > 0);
    drop(state);

    let store = Store::open(dir.path(), 64 << 20, Duration::from_secs(1)).unwrap();
    let numbers = 2_000 * DIMENSION as u64;
    assert!(offline::read_checkpoints(&store, 1).unwrap() > 2 * numbers, "two bytes for each");
    offline::remove_checkpoints(&store, 1).unwrap();
    assert_eq!(offline::read_checkpoints(&store, 1).unwrap(), 0);
    drop(store);
    let state = open(&dir);
    expect_all(&state);
    until("the graph is built from nothing", || (state.stats().tail, state.stats().graph) == (0, 3_999));
}

#[test]
fn graphs_keep_numbers_as_the_collection_asks() {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed());
    let items: Vec<_> = (0..2_500).map(|i| (format!("i{i}"), unit(&mut rng))).collect();
    let quantized = |items: &[(String, Vec<f32>)], quantization: Quantization| match put(items) {
        Command::Put(put) => Command::Put(PutRecords { quantization: quantization.into(), ..put }),
        other => other,
    };
    let storage = |state: &ImageState| state.contents().collections.live(UID).unwrap().index.config().storage;
    let state = open(&dir);
    for (index, chunk) in (1..).zip(items[..2_400].chunks(100)) {
        apply(&state, index, quantized(chunk, Quantization::I8));
    }
    assert_eq!(storage(&state), Storage::I8);
    until("a checkpoint is written", || state.stats().checkpoint > 0);
    let covered = state.stats().checkpoint;
    state.flush().unwrap();
    drop(state);

    let state = open(&dir);
    assert_eq!((storage(&state), state.stats().checkpoint), (Storage::I8, covered));
    // From a coordinator of before quantizations: the collection stays as it is.
    apply(&state, 25, quantized(&items[2_400..], Quantization::Unspecified));
    assert_eq!(storage(&state), Storage::I8);
    for (id, v) in items.iter().step_by(83) {
        let hit = &state.search(UID, v, 1, false).unwrap()[0];
        assert!(hit.id == *id && (hit.score - 1.0).abs() < 1e-5, "{hit:?} for {id}: ranked by the stored embedding");
    }

    let other = tempfile::tempdir().unwrap();
    let follower = open(&other);
    let (raft, chunks) = state.snapshot().unwrap();
    follower.install(raft, chunks).unwrap();
    assert_eq!(storage(&follower), Storage::I8);
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
fn searches_never_miss_an_image_that_is_being_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(&dir);
    let mut rng = StdRng::seed_from_u64(seed());
    let target = unit(&mut rng);
    apply(&state, 1, put(&[("target".to_owned(), target.clone())]));
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let hits = state.search(UID, &target, 1, false).unwrap();
                    assert_eq!(hits.len(), 1);
                    assert_eq!(hits[0].id, "target");
                    assert!(state.get(UID, "target", true).unwrap().is_some());
                }
            });
        }
        for index in 2..1500 {
            // A little different each time, so that it is not "unchanged".
            let mut next = target.clone();
            next[0] += 1e-3 * (index % 7) as f32;
            omma_common::vector::normalise(&mut next, DIMENSION).unwrap();
            let effects = apply(&state, index, put(&[("target".to_owned(), next)])).effects;
            assert_eq!(effects, [PutEffect::Replaced as i32]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

/// Applies a log in chunks of random lengths, as replicas do.
fn apply_in_chunks(state: &ImageState, log: &[(u64, Command)], rng: &mut StdRng) {
    let mut rest = log;
    while !rest.is_empty() {
        let (chunk, after) = rest.split_at(rng.random_range(1..=rest.len().min(40)));
        let entry = |(index, command): &(u64, Command)| Committed {
            index: *index,
            command: Some(encode("", UID, command.clone())),
        };
        state.apply(chunk.iter().map(entry).collect(), Bytes::from_static(b"raft")).unwrap();
        rest = after;
    }
}

#[test]
fn replicas_are_compared_at_equal_indexes_however_their_entries_came() {
    let mut rng = StdRng::seed_from_u64(seed());
    let dirs: Vec<TempDir> = (0..3).map(|_| tempfile::tempdir().unwrap()).collect();
    let states: Vec<ImageState> = dirs.iter().map(open).collect();
    let mut history = History::new(rng.random());
    let log: Vec<_> = (0..300).map(|_| history.next()).collect();
    apply_in_chunks(&states[0], &log, &mut rng);
    // Behind: it is compared where both have been.
    apply_in_chunks(&states[1], &log[..200], &mut rng);
    assert_eq!(compare(&states[0].digests(), &states[1].digests()), Some((192, true)));
    apply_in_chunks(&states[1], &log[200..], &mut rng);
    assert_eq!(compare(&states[0].digests(), &states[1].digests()), Some((300, true)));

    // One embedding of one image is another.
    let mut other = log.clone();
    let place = other.iter().position(|(index, command)| *index > 130 && matches!(command, Command::Put(_))).unwrap();
    other[place].1 = put(&[("odd".to_owned(), unit(&mut rng))]);
    apply_in_chunks(&states[2], &other[..250], &mut rng);
    assert_eq!(compare(&states[0].digests(), &states[2].digests()), Some((192, false)));
}

#[test]
fn recall_counts_what_is_missed_and_not_what_changed_since() {
    let mut rng = StdRng::seed_from_u64(seed());
    let dir = tempfile::tempdir().unwrap();
    let state = open(&dir);
    let items: Vec<_> = (0..200).map(|i| (format!("i{i}"), unit(&mut rng))).collect();
    apply(&state, 1, put(&items));
    let query = unit(&mut rng);
    let hits = state.search(UID, &query, 10, false).unwrap();
    let answered = Answered { uid: UID, query, k: 10, hits, applied: 1 };
    let measured = |answered: &Answered| state.recall(answered, || true).unwrap().unwrap();
    assert_eq!(measured(&answered), Recall { expected: 10, found: 10 });
    let mut worse = answered.clone();
    worse.hits.remove(3);
    assert_eq!(measured(&worse), Recall { expected: 10, found: 9 });
    assert_eq!(state.recall(&answered, || false).unwrap(), None);

    let ids = vec![answered.hits[0].id.clone()];
    apply(&state, 2, Command::Delete(DeleteRecords { ids }));
    apply(&state, 3, put(&[("new".to_owned(), answered.query.clone())]));
    assert_eq!(measured(&answered), Recall { expected: 9, found: 9 });
}
