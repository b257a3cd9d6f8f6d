//! openraft's own suite, and what it does not ask: restarts, damage, memory bounds.

use std::path::Path;

use super::*;
use crate::group::damage::DamageNotes;
use crate::group::log_db::{BACKGROUND_FLUSH, TABLE};
use crate::group::log_record::Damaged;
use crate::group::machine::Machine;
use crate::group::test_state::MemoryState;
use crate::group::types::{Command, Leader};
use bytes::Bytes;
use openraft::StorageError;
use openraft::storage::RaftLogStorageExt;
use openraft::testing::log::{StoreBuilder, Suite};

struct Builder;

struct Guard {
    _dir: tempfile::TempDir,
    db: Arc<LogDb>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        // Not `close`, which must not be called on an async thread.
        let _ = self.db.jobs.try_send(Job::Stop);
    }
}

impl StoreBuilder<Config, LogStore, Machine, Guard> for Builder {
    async fn build(&self) -> Result<(Guard, LogStore, Machine), StorageError<Config>> {
        let dir = tempfile::tempdir().unwrap();
        let db = LogDb::open(dir.path()).unwrap();
        let log = LogStore::open(&db, 7).unwrap();
        let machine = Machine::new(1, Arc::new(MemoryState::default()), DamageNotes::default()).await.unwrap();
        Ok((Guard { _dir: dir, db }, log, machine))
    }
}

#[test]
fn openrafts_suite() {
    // Runs each test on a runtime of its own.
    tokio::runtime::Runtime::new().unwrap().block_on(async { Suite::test_all(Builder).await.unwrap() });
}

fn entry(index: u64, bytes: usize) -> Entry {
    let log_id = LogId { leader_id: Leader { term: 1, node_id: 1 }, index };
    Entry { log_id, payload: EntryPayload::Normal(Command(Bytes::from(vec![index as u8; bytes]), Trail::default())) }
}

fn id(index: u64) -> LogId {
    entry(index, 0).log_id
}

async fn open(folder: &Path) -> Arc<LogDb> {
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || LogDb::open(&folder).unwrap()).await.unwrap()
}

async fn close(db: &Arc<LogDb>) {
    let db = db.clone();
    tokio::task::spawn_blocking(move || db.close()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).await;
    let vote = Vote::new_committed(4, 2);
    for group in [1, 2] {
        let mut log = LogStore::open(&db, group).unwrap();
        log.blocking_append((0..100).map(|i| entry(i, 50))).await.unwrap();
        log.save_vote(&vote).await.unwrap();
        log.save_committed(Some(id(80))).await.unwrap();
        log.save_committed(Some(id(85))).await.unwrap();
        assert_eq!(log.read_committed().await.unwrap(), Some(id(85)));
        log.purge(id(9 * u64::from(group))).await.unwrap();
        log.truncate_after(Some(id(90))).await.unwrap();
        log.blocking_append([entry(91, 10)]).await.unwrap();
    }
    close(&db).await;
    let db = open(dir.path()).await;
    for group in [1, 2] {
        let mut log = LogStore::open(&db, group).unwrap();
        let state = log.get_log_state().await.unwrap();
        assert_eq!(state.last_purged_log_id, Some(id(9 * u64::from(group))));
        assert_eq!(state.last_log_id, Some(id(91)));
        assert_eq!(log.read_vote().await.unwrap(), Some(vote));
        assert_eq!(log.read_committed().await.unwrap(), Some(id(80)), "not written as often as it changes");
        let entries = log.try_get_log_entries(..).await.unwrap();
        let expected: Vec<_> = (9 * u64::from(group) + 1..91).map(|i| entry(i, 50)).chain([entry(91, 10)]).collect();
        assert_eq!(entries, expected);
    }
    assert_eq!(LogStore::open(&db, 3).unwrap().get_log_state().await.unwrap(), LogState::default());
    close(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_erased_is_no_candidate_and_votes_for_whoever_has_what_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).await;
    let mut log = LogStore::open(&db, 1).unwrap();
    assert!(log.is_whole() && log.may_vote_for(None));
    log.blocking_append((0..100).map(|i| entry(i, 50))).await.unwrap();
    log.erase().await.unwrap();
    log.blocking_append((0..95).map(|i| entry(i, 50))).await.unwrap();
    drop(log);
    close(&db).await;
    let db = open(dir.path()).await;
    let mut log = LogStore::open(&db, 1).unwrap();
    assert!(!log.is_whole());
    assert!(!log.may_vote_for(None) && !log.may_vote_for(Some(id(98))));
    assert!(log.may_vote_for(Some(id(99))) && log.may_vote_for(Some(id(120))));
    log.blocking_append((95..100).map(|i| entry(i, 50))).await.unwrap();
    assert!(log.is_whole() && log.may_vote_for(None), "whether it gets the vote is for Raft to say");
    close(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_entries_leave_memory_and_are_read_from_the_table() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).await;
    let mut log = LogStore::open(&db, 1).unwrap();
    const BYTES: usize = 300 << 10;
    for index in 0..150 {
        log.blocking_append([entry(index, BYTES)]).await.unwrap();
    }
    assert!(log.log.lock().tail.bytes() <= TAIL_BYTES);
    assert_eq!(db.tail_bytes.load(Ordering::Relaxed), log.log.lock().tail.bytes());
    let some = log.limited_get_log_entries(2, 150).await.unwrap();
    assert!((1..=READ_BYTES / BYTES).contains(&some.len()), "{} entries", some.len());
    assert_eq!(some[0], entry(2, BYTES));
    // Across the border between table and memory.
    let all = log.try_get_log_entries(0..150).await.unwrap();
    assert!(all.iter().enumerate().all(|(i, e)| *e == entry(i as u64, BYTES)) && all.len() == 150);
    let mut other = LogStore::open(&db, 2).unwrap();
    other.blocking_append([entry(0, 10)]).await.unwrap();
    drop(log);
    assert_eq!(db.tail_bytes.load(Ordering::Relaxed), other.log.lock().tail.bytes());
    close(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_names_group_and_index() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).await;
    let mut log = LogStore::open(&db, 5).unwrap();
    log.blocking_append((0..3).map(|i| entry(i, 50))).await.unwrap();
    close(&db).await;
    let folder = dir.path().to_owned();
    tokio::task::spawn_blocking(move || {
        let store = crate::store::Store::open(&folder, 1 << 20, BACKGROUND_FLUSH).unwrap();
        let table = store.table(TABLE).unwrap();
        let mut value = table.get(key(5, Kind::Entry, 1)).unwrap().unwrap().to_vec();
        value[20] ^= 1;
        let mut batch = crate::store::Batch::default();
        batch.insert(key(5, Kind::Entry, 1), value);
        table.apply(batch).unwrap();
        store.flush().unwrap();
    })
    .await
    .unwrap();
    let db = open(dir.path()).await;
    let error = LogStore::open(&db, 5).unwrap().try_get_log_entries(0..3).await.unwrap_err();
    let damaged = error.get_ref().and_then(|e| e.downcast_ref::<Damaged>()).expect("a Damaged error");
    assert_eq!((damaged.group, damaged.what, damaged.index), (5, "entry", 1));
    close(&db).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_log_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let db = open(dir.path()).await;
    let mut log = LogStore::open(&db, 1).unwrap();
    close(&db).await;
    assert!(log.save_vote(&Vote::new(1, 1)).await.is_err());
    assert!(log.blocking_append([entry(0, 1)]).await.is_err());
    assert!(LogStore::open(&db, 2).is_err());
}
