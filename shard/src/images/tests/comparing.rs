//! What says whether replicas are equal and searches complete.

use bytes::Bytes;
use omma_proto::internal::v1::DeleteRecords;
use omma_proto::internal::v1::image_command::Command;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use super::{History, UID, apply, open, put, seed, unit};
use crate::group::state_machine::{Committed, StateMachine};
use crate::images::ImageState;
use crate::images::command::encode;
use crate::images::digests::compare;
use crate::images::recall::{Answered, Recall};

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
