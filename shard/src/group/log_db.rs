//! The store of all groups' logs: opening, closing, reading back. Written by its writer only.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread::JoinHandle;
use std::time::Duration;

use omma_common::ids::GroupId;
use omma_proto::internal::v1 as proto;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::damage::DamageNotes;
use super::error::GroupError;
use super::log_record::{Damaged, Kind, damaged, key, unseal};
use super::log_writer::{self, Counters, Job, LogCounters};
use super::types::{Entry, LogId, Vote};
use super::wire;
use crate::store::{Store, StoreError, Table};

pub(super) const TABLE: &str = "log";
/// Memory of the store for what it reads back; replication is served from the tails instead.
const CACHE_BYTES: usize = 64 << 20;
/// What needs no fsync reaches the disk with the next one; this is for times without any.
pub(super) const BACKGROUND_FLUSH: Duration = Duration::from_secs(30);

/// The store of all logs.
pub(super) struct LogDb {
    pub(super) jobs: mpsc::Sender<Job>,
    /// Cloned by each thread that reads: sled's handles cannot be shared. `None` once closed: nothing may keep the
    /// store open after that.
    table: Mutex<Option<Table>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    counters: Arc<Counters>,
    pub(super) damage: DamageNotes,
    /// Bytes of entries in memory, of all groups.
    pub(super) tail_bytes: Arc<AtomicUsize>,
}

impl LogDb {
    /// Opens or creates it in `folder` and starts the writer. Blocks.
    pub(super) fn open(folder: &Path) -> Result<Arc<Self>, GroupError> {
        let store = Store::open(folder, CACHE_BYTES, BACKGROUND_FLUSH)?;
        let table = store.table(TABLE)?;
        let (jobs, queue) = mpsc::channel(log_writer::QUEUE);
        let counters = Arc::new(Counters::default());
        let writer = std::thread::Builder::new().name("raft-log".into()).spawn({
            let (table, counters) = (table.clone(), counters.clone());
            move || log_writer::run(&store, &table, queue, &counters)
        });
        let writer =
            writer.map_err(|source| GroupError::Io { what: "cannot start the log's writer".into(), source })?;
        Ok(Arc::new(Self {
            jobs,
            table: Mutex::new(Some(table)),
            writer: Mutex::new(Some(writer)),
            counters,
            damage: DamageNotes::default(),
            tail_bytes: Arc::default(),
        }))
    }

    /// What is stored of `group`'s log. Blocks.
    pub(super) fn load(&self, group: GroupId) -> Result<Loaded, GroupError> {
        let table = self.table.lock().clone().ok_or(GroupError::Stopped(group))?;
        load(&table, group)
    }

    /// What can be told of a log that is damaged, to erase it: its vote, and a last entry that is none before the one it
    /// had. Blocks.
    pub(super) fn load_remains(&self, group: GroupId) -> Result<Loaded, GroupError> {
        let table = self.table.lock().clone().ok_or(GroupError::Stopped(group))?;
        load_remains(&table, group)
    }

    /// Damage or lack of room that has ended the use of the store.
    pub(super) fn trouble(&self) -> Option<StoreError> {
        self.table.lock().as_ref().and_then(Table::trouble)
    }

    /// Operations that wait for the writer.
    pub(super) fn waiting(&self) -> usize {
        log_writer::QUEUE.saturating_sub(self.jobs.capacity())
    }

    pub(super) fn counters(&self) -> LogCounters {
        self.counters.read()
    }

    /// Flushes and lets go of the store. Blocks. Later operations fail.
    pub(super) fn close(&self) {
        // An error means that the writer has ended already.
        let _ = self.jobs.blocking_send(Job::Stop);
        *self.table.lock() = None;
        if let Some(writer) = self.writer.lock().take()
            && writer.join().is_err()
        {
            tracing::error!("the Raft log's writer panicked");
        }
    }

    /// Stored entries of `from..end`, up to about `budget` bytes but at least one, and how many bytes they take. Blocks.
    pub(super) fn read(&self, group: GroupId, from: u64, end: u64, budget: usize) -> io::Result<(Vec<Entry>, usize)> {
        let table = self.table.lock().clone().ok_or_else(closed)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for index in from..end {
            let value = table.get(key(group, Kind::Entry, index)).map_err(io::Error::other)?;
            let found = value.ok_or_else(|| damaged(group, Kind::Entry, index, "it is missing"));
            let value = found.map_err(|e| self.unusable(e))?;
            bytes += value.len();
            if bytes > budget && !entries.is_empty() {
                break;
            }
            entries.push(read_entry(group, index, &value).map_err(|e| self.unusable(e))?);
        }
        Ok((entries, bytes))
    }

    fn unusable(&self, found: Damaged) -> io::Error {
        self.damage.log(&found);
        io::Error::other(found)
    }
}

pub(super) fn closed() -> io::Error {
    io::Error::other("the Raft log is closed")
}

fn read_entry(group: GroupId, index: u64, value: &[u8]) -> Result<Entry, Damaged> {
    let entry: proto::RaftEntry = unseal(group, Kind::Entry, index, value)?;
    let entry = wire::read_entry(entry).map_err(|e| damaged(group, Kind::Entry, index, e))?;
    match entry.log_id.index == index {
        true => Ok(entry),
        false => Err(damaged(group, Kind::Entry, index, format!("it is entry {}", entry.log_id.index))),
    }
}

/// A stored log.
pub(super) struct Loaded {
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    /// The last one removed from the beginning.
    pub(super) purged: Option<LogId>,
    /// The last entry of the log that was here before and was erased.
    pub(super) erased: Option<LogId>,
    /// Where the log begins, if it has entries.
    pub(super) first: u64,
    /// The last entry, or `purged` if there is none.
    pub(super) last: Option<LogId>,
}

fn load(table: &Table, group: GroupId) -> Result<Loaded, GroupError> {
    let log_id = |kind| -> Result<Option<LogId>, GroupError> {
        let value = table.get(key(group, kind, 0))?;
        let id = value.map(|v| unseal::<proto::RaftLogId>(group, kind, 0, &v)).transpose()?;
        Ok(id.as_ref().map(wire::read_log_id))
    };
    let vote = table.get(key(group, Kind::Vote, 0))?;
    let vote = vote.map(|v| unseal::<proto::RaftVote>(group, Kind::Vote, 0, &v)).transpose()?;
    let vote = vote.as_ref().map(wire::read_vote);
    let (committed, purged, erased) = (log_id(Kind::Committed)?, log_id(Kind::Purged)?, log_id(Kind::Erased)?);
    let first = purged.map_or(0, |id| id.index + 1);
    let end = end_of_log(table, group, first)?;
    let last = match end.checked_sub(1).filter(|_| end > first) {
        None => purged,
        Some(index) => {
            let value = table.get(key(group, Kind::Entry, index))?;
            let value = value.ok_or_else(|| damaged(group, Kind::Entry, index, "it is missing"))?;
            Some(read_entry(group, index, &value)?.log_id)
        }
    };
    Ok(Loaded { vote, committed, purged, erased, first, last })
}

fn load_remains(table: &Table, group: GroupId) -> Result<Loaded, GroupError> {
    let vote = table.get(key(group, Kind::Vote, 0))?;
    let vote = vote.map(|v| unseal::<proto::RaftVote>(group, Kind::Vote, 0, &v)).transpose()?;
    let vote = vote.as_ref().map(wire::read_vote);
    let erased = table.get(key(group, Kind::Erased, 0))?;
    let erased = erased.and_then(|v| unseal::<proto::RaftLogId>(group, Kind::Erased, 0, &v).ok());
    let (mut first, mut end) = (None, 0);
    let entries = key(group, Kind::Entry, 0);
    for entry in table.prefix(&entries[..entries.len() - size_of::<u64>()]) {
        let index = entry?.0.last_chunk().map_or(0, |index| u64::from_be_bytes(*index));
        first.get_or_insert(index);
        end = index + 1;
    }
    // No entry was of a later term than the vote. Without entries it is not known how far the log went: anything of a
    // later term is further.
    let index = if end > 0 { end - 1 } else { u64::MAX };
    let last = vote.map(|vote| LogId { leader_id: vote.leader_id, index });
    let erased = erased.as_ref().map(wire::read_log_id);
    Ok(Loaded { vote, committed: None, purged: None, erased, first: first.unwrap_or(0), last })
}

/// The index after the last entry. The log has no holes, so that can be searched for; scanning a table backwards
/// while it is written may deadlock in sled.
fn end_of_log(table: &Table, group: GroupId, first: u64) -> Result<u64, GroupError> {
    let exists = |index| table.contains(key(group, Kind::Entry, index));
    if !exists(first)? {
        return Ok(first);
    }
    let mut step = 1;
    while exists(first + step)? {
        step *= 2;
    }
    let (mut present, mut absent) = (first + step / 2, first + step);
    while absent - present > 1 {
        let middle = present + (absent - present) / 2;
        match exists(middle)? {
            true => present = middle,
            false => absent = middle,
        }
    }
    Ok(absent)
}
