//! Snapshots that are read while more is applied.

use omma_proto::internal::v1::DeleteRecords;
use omma_proto::internal::v1::image_command::Command;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::{History, UID, apply, open, put, seed, unit};
use crate::group::state_machine::{StateError, StateMachine};

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
