//! The logs and votes of all groups of this node, in one store.
//!
//! Every change is made in memory first and then queued for the writer, so what was appended can be read at once.
//! Entries that are not yet in the table, and as many recent ones as fit, stay in memory: replication and applying
//! rarely read the store.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use futures::{Stream, TryStreamExt, stream};
use omma_common::ids::GroupId;
use omma_proto::internal::v1 as proto;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::error::GroupError;
use super::log_record::{Damaged, Key, Kind, damaged, key, seal, unseal};
use super::log_tail::LogTail;
use super::log_writer::{self, Counters, Done, Job, LogCounters, Op};
use super::types::{Config, Entry, LogId, Vote};
use super::wire;
use crate::store::{Store, Table};

const TABLE: &str = "log";
/// Memory of the store for what it reads back; replication is served from the tail instead.
const CACHE_BYTES: usize = 64 << 20;
/// What needs no fsync reaches the disk with the next one; this is for times without any.
const BACKGROUND_FLUSH: Duration = Duration::from_secs(30);
/// Most bytes of entries that a group keeps in memory beyond those that wait for the writer.
const TAIL_BYTES: usize = 32 << 20;
/// The same for all groups together.
const ALL_TAILS_BYTES: usize = 256 << 20;
/// Most bytes of entries read at once, for one message or one step of applying. At least one entry is read.
const READ_BYTES: usize = 1 << 20;

/// The store of all logs.
pub(super) struct LogDb {
    jobs: mpsc::Sender<Job>,
    /// Cloned by each thread that reads: sled's handles cannot be shared. `None` once closed: nothing may keep the
    /// store open after that.
    table: Mutex<Option<Table>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    counters: Arc<Counters>,
    /// Bytes of entries in memory, of all groups.
    tail_bytes: Arc<AtomicUsize>,
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
            tail_bytes: Arc::default(),
        }))
    }

    /// The log of `group`. To be called once per group: only clones of what this returns share its memory. Blocks.
    pub(super) fn group(self: &Arc<Self>, group: GroupId) -> Result<LogStore, GroupError> {
        let table = self.table.lock().clone().ok_or(GroupError::Stopped(group))?;
        let log = load(&table, group, self.tail_bytes.clone())?;
        Ok(LogStore { db: self.clone(), group, log: Arc::new(Mutex::new(log)), written: Arc::default() })
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

    fn read_table(&self, group: GroupId, from: u64, end: u64, budget: usize) -> io::Result<(Vec<Entry>, usize)> {
        let table = self.table.lock().clone().ok_or_else(closed)?;
        let (mut entries, mut bytes) = (Vec::new(), 0);
        for index in from..end {
            let value = table.get(key(group, Kind::Entry, index)).map_err(io::Error::other)?;
            let value = value.ok_or_else(|| io::Error::other(damaged(group, Kind::Entry, index, "it is missing")))?;
            bytes += value.len();
            if bytes > budget && !entries.is_empty() {
                break;
            }
            entries.push(read_entry(group, index, &value).map_err(io::Error::other)?);
        }
        Ok((entries, bytes))
    }
}

fn closed() -> io::Error {
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

fn load(table: &Table, group: GroupId, all_tails: Arc<AtomicUsize>) -> Result<Log, GroupError> {
    let log_id = |kind| -> Result<Option<LogId>, GroupError> {
        let value = table.get(key(group, kind, 0))?;
        let id = value.map(|v| unseal::<proto::RaftLogId>(group, kind, 0, &v)).transpose()?;
        Ok(id.as_ref().map(wire::read_log_id))
    };
    let vote = table.get(key(group, Kind::Vote, 0))?;
    let vote = vote.map(|v| unseal::<proto::RaftVote>(group, Kind::Vote, 0, &v)).transpose()?;
    let purged = log_id(Kind::Purged)?;
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
    Ok(Log {
        vote: vote.as_ref().map(wire::read_vote),
        committed: log_id(Kind::Committed)?,
        purged,
        first,
        last,
        tail: LogTail::default(),
        issued: 0,
        cuts: 0,
        all_tails,
    })
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

/// One group's log, as it is once all queued operations are done.
struct Log {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// The last one removed from the beginning.
    purged: Option<LogId>,
    /// Where the log begins, if it has entries.
    first: u64,
    /// The last entry, or `purged` if there is none.
    last: Option<LogId>,
    tail: LogTail,
    /// Number of the last operation that was queued.
    issued: u64,
    /// How often entries were removed. Whoever reads the table notices by it that what was read may be gone.
    cuts: u64,
    all_tails: Arc<AtomicUsize>,
}

impl Log {
    fn end(&self) -> u64 {
        self.last.map_or(0, |id| id.index + 1).max(self.first)
    }

    fn issue(&mut self) -> u64 {
        self.issued += 1;
        self.issued
    }
}

/// One group's log: storage and reader at once. Clones share it.
#[derive(Clone)]
pub(super) struct LogStore {
    db: Arc<LogDb>,
    group: GroupId,
    log: Arc<Mutex<Log>>,
    /// Number of the last operation that can be read from the table.
    written: Arc<AtomicU64>,
}

impl LogStore {
    fn key(&self, kind: Kind, index: u64) -> Key {
        key(self.group, kind, index)
    }

    /// A place in the writer's queue. Taken first, so that memory and queue change together even if the caller goes.
    async fn place(&self) -> io::Result<mpsc::Permit<'_, Job>> {
        self.db.jobs.reserve().await.map_err(|_| closed())
    }

    fn operation(&self, number: u64, changes: Vec<(Key, Option<Vec<u8>>)>) -> Op {
        let written = Some((self.written.clone(), number));
        Op { changes, entries: 0, durable: false, written, done: Done::Nobody }
    }

    /// Removes the entries `from..end` from the table.
    fn removal(&self, from: u64, end: u64) -> Vec<(Key, Option<Vec<u8>>)> {
        (from..end).map(|index| (self.key(Kind::Entry, index), None)).collect()
    }

    /// Entries of `from..end` that the log has, from the first one on, about `budget` bytes of them but at least one.
    async fn read(&self, from: u64, end: u64, budget: usize) -> io::Result<Vec<Entry>> {
        loop {
            let (from, table_end, end, cuts) = {
                let log = self.log.lock();
                let (from, end) = (from.max(log.first), end.min(log.end()));
                let table_end = log.tail.first().unwrap_or(log.end()).min(end);
                if from >= table_end {
                    return Ok(log.tail.read(from, end, budget));
                }
                (from, table_end, end, log.cuts)
            };
            let (db, group) = (self.db.clone(), self.group);
            let read = tokio::task::spawn_blocking(move || db.read_table(group, from, table_end, budget)).await;
            let log = self.log.lock();
            if log.cuts != cuts {
                continue;
            }
            let (mut entries, bytes) = read.map_err(io::Error::other)??;
            if entries.len() as u64 == table_end - from && bytes < budget {
                entries.extend(log.tail.read(table_end, end, budget - bytes));
            }
            return Ok(entries);
        }
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let from = match range.start_bound() {
        Bound::Included(&i) => i,
        Bound::Excluded(&i) => i.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(&i) => i.saturating_add(1),
        Bound::Excluded(&i) => i,
        Bound::Unbounded => u64::MAX,
    };
    (from, end)
}

impl RaftLogReader<Config> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        self.entries_stream(range).await.try_collect().await
    }

    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (from, end) = bounds(&range);
        let log = self.clone();
        let pieces = stream::try_unfold((log, from), move |(log, from)| async move {
            let entries = log.read(from, end, READ_BYTES).await?;
            let Some(last) = entries.last() else { return Ok::<_, io::Error>(None) };
            let next = last.log_id.index + 1;
            Ok(Some((stream::iter(entries.into_iter().map(Ok)), (log, next))))
        });
        Box::pin(pieces.try_flatten())
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, READ_BYTES).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.log.lock().vote)
    }
}

impl RaftLogStorage<Config> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Config>> {
        let log = self.log.lock();
        Ok(LogState { last_purged_log_id: log.purged, last_log_id: log.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let place = self.place().await?;
        let (sender, done) = oneshot::channel();
        let key = self.key(Kind::Vote, 0);
        let number = self.log.lock().issue();
        let mut op = self.operation(number, vec![(key, Some(seal(&key, &wire::vote(vote))))]);
        (op.durable, op.done) = (true, Done::Caller(sender));
        place.send(Job::Write(op));
        done.await.map_err(|_| closed())??;
        // Only now: replication may not act under a vote that could be forgotten.
        self.log.lock().vote = Some(*vote);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let place = self.place().await?;
        let key = self.key(Kind::Committed, 0);
        let value = committed.as_ref().map(|id| seal(&key, &wire::log_id(id)));
        let number = {
            let mut log = self.log.lock();
            log.committed = committed;
            log.issue()
        };
        place.send(Job::Write(self.operation(number, vec![(key, value)])));
        Ok(())
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.log.lock().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Config>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let sealed = entries.iter().map(|entry| {
            let key = self.key(Kind::Entry, entry.log_id.index);
            (key, Some(seal(&key, &wire::entry(entry))))
        });
        let changes: Vec<_> = sealed.collect();
        let place = self.place().await?;
        let number = {
            let mut log = self.log.lock();
            let number = log.issue();
            if let (Some(first), true) = (entries.first(), log.end() == log.first) {
                log.first = first.log_id.index;
            }
            for (entry, (_, value)) in entries.into_iter().zip(&changes) {
                let bytes = value.as_ref().map_or(0, Vec::len);
                log.last = Some(entry.log_id);
                log.tail.push(entry, bytes, number);
                self.db.tail_bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            let written = self.written.load(Ordering::Acquire);
            while log.tail.bytes() > TAIL_BYTES || self.db.tail_bytes.load(Ordering::Relaxed) > ALL_TAILS_BYTES {
                let Some(bytes) = log.tail.forget_first(written) else { break };
                self.db.tail_bytes.fetch_sub(bytes, Ordering::Relaxed);
            }
            number
        };
        let count = changes.len() as u64;
        let mut op = self.operation(number, changes);
        (op.entries, op.durable, op.done) = (count, true, Done::Raft(callback));
        place.send(Job::Write(op));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        let place = self.place().await?;
        let (number, changes) = {
            let mut log = self.log.lock();
            let keep = last.map_or(0, |id| id.index + 1).max(log.first);
            if keep >= log.end() {
                return Ok(());
            }
            let changes = self.removal(keep, log.end());
            let freed = log.tail.truncate(keep);
            self.db.tail_bytes.fetch_sub(freed, Ordering::Relaxed);
            log.last = last.max(log.purged);
            log.cuts += 1;
            (log.issue(), changes)
        };
        place.send(Job::Write(self.operation(number, changes)));
        Ok(())
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        let place = self.place().await?;
        let key = self.key(Kind::Purged, 0);
        let (number, mut changes) = {
            let mut log = self.log.lock();
            if log.purged >= Some(upto) {
                return Ok(());
            }
            let changes = self.removal(log.first, log.end().min(upto.index + 1));
            let freed = log.tail.purge(upto.index);
            self.db.tail_bytes.fetch_sub(freed, Ordering::Relaxed);
            log.purged = Some(upto);
            log.first = upto.index + 1;
            log.last = log.last.max(Some(upto));
            log.cuts += 1;
            (log.issue(), changes)
        };
        changes.push((key, Some(seal(&key, &wire::log_id(&upto)))));
        place.send(Job::Write(self.operation(number, changes)));
        Ok(())
    }
}

/// When the last handle goes, so do the kept entries.
impl Drop for Log {
    fn drop(&mut self) {
        self.all_tails.fetch_sub(self.tail.bytes(), Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
