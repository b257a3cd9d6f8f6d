//! The one thread that writes the logs of all groups: takes what waits in its queue, makes one batch of it, applies,
//! flushes once, answers all. So however many groups and proposals wait, they share an fsync.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::log_record::Key;
use super::trail::{Flushed, Trail};
use super::types::Config;
use crate::broken;
use crate::metrics::{FSYNC_ENTRIES, FSYNC_SECONDS};
use crate::store::{Batch, Store, StoreError, Table};

/// Operations that may wait for the writer; beyond it appending waits.
pub(super) const QUEUE: usize = 4096;
/// A batch is closed when it has this many operations or bytes.
const BATCH_OPS: usize = 4096;
const BATCH_BYTES: usize = 16 << 20;

/// What the log cost so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Flushes that reached the disk.
    pub fsyncs: u64,
    /// Entries written.
    pub entries: u64,
}

#[derive(Default)]
pub(super) struct Counters {
    fsyncs: AtomicU64,
    entries: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> LogCounters {
        LogCounters { fsyncs: self.fsyncs.load(Ordering::Relaxed), entries: self.entries.load(Ordering::Relaxed) }
    }
}

/// Who wants to know when an operation is done.
pub(super) enum Done {
    Nobody,
    Raft(IOFlushed<Config>),
    Caller(oneshot::Sender<io::Result<()>>),
}

impl Done {
    fn tell(self, failure: Option<&str>) {
        let result = failure.map_or(Ok(()), |reason| Err(io::Error::other(reason.to_owned())));
        match self {
            Self::Nobody => {}
            Self::Raft(callback) => callback.io_completed(result),
            // The caller may have gone.
            Self::Caller(sender) => drop(sender.send(result)),
        }
    }
}

/// One change of one group's log.
pub(super) struct Op {
    /// Keys to set, or to remove (`None`).
    pub(super) changes: Vec<(Key, Option<Vec<u8>>)>,
    /// How many of them are new entries.
    pub(super) entries: u64,
    /// Whether it must be on disk before it is done.
    pub(super) durable: bool,
    /// Raised to the number when the change can be read from the table.
    pub(super) written: Option<(Arc<AtomicU64>, u64)>,
    pub(super) done: Done,
    /// When it was queued.
    pub(super) queued: Instant,
    /// Of those of its entries whose traces are recorded.
    pub(super) trails: Vec<Trail>,
}

/// What the writer's queue takes.
pub(super) enum Job {
    Write(Op),
    /// Flushes and ends the thread.
    Stop,
}

/// Runs until it is stopped or nobody can send any more.
pub(super) fn run(store: &Store, table: &Table, mut queue: mpsc::Receiver<Job>, counters: &Counters) {
    // After a failure the table may miss an operation, so none after it may be written either.
    let mut failure: Option<String> = None;
    let mut stopping = false;
    while !stopping && let Some(job) = queue.blocking_recv() {
        let mut ops = Vec::new();
        stopping = gather(job, &mut queue, &mut ops);
        let (batch, entries, durable) = batch_of(&mut ops);
        let begun = Instant::now();
        if failure.is_none() {
            failure = write(store, table, batch, durable || stopping, counters).err().map(|e| e.to_string());
        }
        let flush = Flushed { begun, done: Instant::now(), entries };
        match &failure {
            None => count(counters, flush, durable),
            Some(reason) => tracing::error!(reason, "the Raft log cannot be written"),
        }
        for op in ops {
            op.trails.iter().for_each(|trail| trail.flushed(op.queued, flush));
            if let (None, Some((written, number))) = (&failure, &op.written) {
                written.fetch_max(*number, Ordering::Release);
            }
            op.done.tell(failure.as_deref());
        }
    }
}

fn count(counters: &Counters, flush: Flushed, durable: bool) {
    counters.entries.fetch_add(flush.entries, Ordering::Relaxed);
    if durable {
        FSYNC_SECONDS.took(flush.done - flush.begun);
        FSYNC_ENTRIES.observe(flush.entries as f64);
    }
}

/// Takes `first` and whatever waits behind it, within bounds. Returns whether to stop afterwards.
fn gather(first: Job, queue: &mut mpsc::Receiver<Job>, ops: &mut Vec<Op>) -> bool {
    let mut bytes = 0;
    let mut next = Some(first);
    loop {
        match next {
            None => return false,
            Some(Job::Stop) => return true,
            Some(Job::Write(op)) => {
                bytes += op.changes.iter().map(|(k, v)| k.len() + v.as_ref().map_or(0, Vec::len)).sum::<usize>();
                ops.push(op);
            }
        }
        if bytes >= BATCH_BYTES || ops.len() >= BATCH_OPS {
            return false;
        }
        next = queue.try_recv().ok();
    }
}

/// In order: a later change of a key replaces an earlier one.
fn batch_of(ops: &mut [Op]) -> (Batch, u64, bool) {
    let mut batch = Batch::default();
    let (mut entries, mut durable) = (0, false);
    for op in ops {
        entries += op.entries;
        durable |= op.durable;
        for (key, value) in std::mem::take(&mut op.changes) {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
    }
    (batch, entries, durable)
}

fn write(store: &Store, table: &Table, batch: Batch, flush: bool, counters: &Counters) -> Result<(), StoreError> {
    table.apply(batch)?;
    if flush && !broken::skips_fsync() {
        store.flush()?;
        counters.fsyncs.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
