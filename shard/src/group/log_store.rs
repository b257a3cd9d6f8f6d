//! One group's log and votes, kept in the store that all groups share.
//!
//! Every change is made in memory first and then queued for the writer, so what was appended can be read at once.
//! Entries that are not yet in the table, and as many recent ones as fit, stay in memory: replication and applying
//! rarely read the store.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{Stream, TryStreamExt, stream};
use omma_common::ids::GroupId;
use openraft::storage::{IOFlushed, RaftLogStorage};
use openraft::{EntryPayload, LogState, OptionalSend, RaftLogReader};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::error::GroupError;
use super::log_db::{Loaded, LogDb, closed};
use super::log_record::{Key, Kind, key, seal};
use super::log_tail::LogTail;
use super::log_writer::{Done, Job, Op};
use super::trail::Trail;
use super::types::{Config, Entry, LogId, Vote};
use super::wire;

/// Most bytes of entries that a group keeps in memory beyond those that wait for the writer.
const TAIL_BYTES: usize = 32 << 20;
/// The same for all groups together.
const ALL_TAILS_BYTES: usize = 256 << 20;
/// Most bytes of entries read at once, for one message or one step of applying. At least one entry is read.
const READ_BYTES: usize = 1 << 20;
/// How often the committed log id is written. It only spares a start the wait for the leader, and written with every
/// entry it costs each fsync of the log another one, of the file that its leaf goes to.
const WRITE_COMMITTED_EVERY: Duration = Duration::from_secs(1);

/// One group's log, as it is once all queued operations are done.
struct Log {
    vote: Option<Vote>,
    committed: Option<LogId>,
    /// When that, or one before it, was last written.
    committed_written: Option<Instant>,
    /// The last one removed from the beginning.
    purged: Option<LogId>,
    /// The last entry of the log that was here before and was erased.
    erased: Option<LogId>,
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
    /// The log of `group`. To be called once per group: only clones of what this returns share its memory. Blocks.
    pub(super) fn open(db: &Arc<LogDb>, group: GroupId) -> Result<Self, GroupError> {
        Ok(Self::of(db, group, db.load(group)?))
    }

    /// What is left of a damaged log: good for erasing it only. Blocks.
    pub(super) fn remains(db: &Arc<LogDb>, group: GroupId) -> Result<Self, GroupError> {
        Ok(Self::of(db, group, db.load_remains(group)?))
    }

    fn of(db: &Arc<LogDb>, group: GroupId, loaded: Loaded) -> Self {
        let Loaded { vote, committed, purged, erased, first, last } = loaded;
        let (tail, all_tails) = (LogTail::default(), db.tail_bytes.clone());
        let (committed_written, issued, cuts) = (None, 0, 0);
        let log =
            Log { vote, committed, committed_written, purged, erased, first, last, tail, issued, cuts, all_tails };
        Self { db: db.clone(), group, log: Arc::new(Mutex::new(log)), written: Arc::default() }
    }

    fn key(&self, kind: Kind, index: u64) -> Key {
        key(self.group, kind, index)
    }

    /// A place in the writer's queue. Taken first, so that memory and queue change together even if the caller goes.
    async fn place(&self) -> io::Result<mpsc::Permit<'_, Job>> {
        self.db.jobs.reserve().await.map_err(|_| closed())
    }

    fn operation(&self, number: u64, changes: Vec<(Key, Option<Vec<u8>>)>) -> Op {
        let written = Some((self.written.clone(), number));
        let (queued, trails) = (Instant::now(), Vec::new());
        Op { changes, entries: 0, durable: false, written, done: Done::Nobody, queued, trails }
    }

    /// Whether the log reaches as far as the one that was erased here. Until it does, this replica may lack what it
    /// once acknowledged, and must not be elected.
    pub(super) fn is_whole(&self) -> bool {
        let log = self.log.lock();
        log.last >= log.erased
    }

    /// Whether a candidate whose log ends so may have this replica's vote: it would not have had it while the erased log
    /// was here if it lacked what that had (Ongaro, "Consensus: bridging theory and practice", 3.6.1).
    pub(super) fn may_vote_for(&self, last: Option<LogId>) -> bool {
        let log = self.log.lock();
        log.last.max(last) >= log.erased
    }

    /// Removes everything but the vote, durably. To be called when no replica uses the log.
    pub(super) async fn erase(&self) -> io::Result<()> {
        let place = self.place().await?;
        let (sender, done) = oneshot::channel();
        let (number, changes) = {
            let mut log = self.log.lock();
            let mut changes = self.removal(log.first, log.end());
            log.erased = log.erased.max(log.last);
            let freed = log.tail.truncate(0);
            self.db.tail_bytes.fetch_sub(freed, Ordering::Relaxed);
            (log.committed, log.purged, log.last, log.first) = (None, None, None, 0);
            log.cuts += 1;
            changes.extend([Kind::Committed, Kind::Purged].map(|kind| (self.key(kind, 0), None)));
            let key = self.key(Kind::Erased, 0);
            changes.extend(log.erased.as_ref().map(|id| (key, Some(seal(&key, &wire::log_id(id))))));
            (log.issue(), changes)
        };
        let mut op = self.operation(number, changes);
        (op.durable, op.done) = (true, Done::Caller(sender));
        place.send(Job::Write(op));
        done.await.map_err(|_| closed())?
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
            let read = tokio::task::spawn_blocking(move || db.read(group, from, table_end, budget)).await;
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

/// The trail of an entry whose trace somebody records.
fn recorded(entry: &Entry) -> Option<Trail> {
    match &entry.payload {
        EntryPayload::Normal(command) if command.1.is_recorded() => Some(command.1.clone()),
        _ => None,
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
        {
            let mut log = self.log.lock();
            log.committed = committed;
            if log.committed_written.is_some_and(|at| at.elapsed() < WRITE_COMMITTED_EVERY) {
                return Ok(());
            }
        }
        let place = self.place().await?;
        let key = self.key(Kind::Committed, 0);
        let value = committed.as_ref().map(|id| seal(&key, &wire::log_id(id)));
        let number = {
            let mut log = self.log.lock();
            log.committed_written = Some(Instant::now());
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
        let trails = entries.iter().filter_map(recorded).collect();
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
        (op.entries, op.durable, op.done, op.trails) = (count, true, Done::Raft(callback), trails);
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
