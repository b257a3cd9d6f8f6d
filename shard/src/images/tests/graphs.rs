//! Graphs: checkpointed, built again, audited, and kept in the numbers that the collection asks for.

use std::time::Duration;

use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{DeleteRecords, PutRecords};
use omma_proto::v1::Quantization;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{DIMENSION, UID, apply, open, put, seed, unit, until};
use crate::group::state_machine::StateMachine;
use crate::images::{ImageState, checkpoint, keys, offline};
use crate::index::Storage;
use crate::store::Store;

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

    checkpoint::spoil(&dir.path().join("checkpoints/1.0"), UID, b"c\0\0\0\0");
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
