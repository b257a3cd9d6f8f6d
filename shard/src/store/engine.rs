//! sled as it is open: flushed by a thread of ours, ended by its first failure, and closed.
//!
//! sled would abort the process if its own thread could not flush, and after a flush that failed it lets the next one
//! wait for ever. So its thread gets nothing to do before the end; a flush that failed is the last one; and what cannot
//! be flushed any more is left behind rather than closed.

use std::io::{Error, ErrorKind, Result};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::{LEAF_FANOUT, StoreError};

type Db = sled::Db<LEAF_FANOUT>;
type Tree = sled::Tree<LEAF_FANOUT>;

/// For sled's own thread, which may not flush: 34 years.
pub(super) const NEVER_MS: usize = 1 << 40;
/// Between two flushes, however long they take.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

/// An open store. Whatever uses its tables holds it, and closing it is the last thing that happens.
pub(super) struct Home {
    engine: Arc<Engine>,
    /// Gone tells the thread to end.
    stop: Option<Sender<()>>,
    flusher: Option<JoinHandle<()>>,
}

impl Home {
    /// Flushes `db` every so often from now on.
    pub(super) fn new(path: &Path, db: Db, flush_every: Duration) -> Result<Self> {
        let flushing = Flushing { db: Some(db.clone()), failure: None };
        let engine = Arc::new(Engine {
            path: path.to_owned(),
            trouble: OnceLock::new(),
            tables: Mutex::new(db),
            flushing: Mutex::new(flushing),
        });
        let (stop, stopped) = channel();
        let flusher = std::thread::Builder::new().name("store-flusher".to_owned()).spawn({
            let engine = engine.clone();
            move || flush_until(&engine, flush_every, &stopped)
        })?;
        Ok(Self { engine, stop: Some(stop), flusher: Some(flusher) })
    }
}

impl std::ops::Deref for Home {
    type Target = Engine;

    fn deref(&self) -> &Engine {
        &self.engine
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.stop = None;
        if self.flusher.take().is_some_and(|flusher| flusher.join().is_err()) {
            tracing::error!(store = %self.engine.path.display(), "the thread that flushes a store panicked");
        }
        self.engine.close();
    }
}

fn flush_until(engine: &Engine, every: Duration, stopped: &Receiver<()>) {
    let mut pause = every;
    while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let begun = Instant::now();
        if let Err(error) = engine.flush() {
            tracing::error!(%error, "a store cannot be flushed any more");
            return;
        }
        pause = every.saturating_sub(begun.elapsed()).max(SHORTEST_PAUSE);
    }
}

/// sled, where it is, and the first failure that has ended its use: damage, lack of room, or a flush that failed.
pub(super) struct Engine {
    pub(super) path: PathBuf,
    trouble: OnceLock<StoreError>,
    tables: Mutex<Db>,
    flushing: Mutex<Flushing>,
}

struct Flushing {
    /// `None` once it was left behind.
    db: Option<Db>,
    failure: Option<StoreError>,
}

impl Engine {
    /// What has ended the use of the store, if anything has.
    pub(super) fn trouble(&self) -> Option<StoreError> {
        self.trouble.get().cloned()
    }

    /// What a call of sled has failed with. sled refuses everything after damage or lack of room.
    pub(super) fn error(&self, source: Error) -> StoreError {
        match StoreError::of(&self.path, source) {
            error @ (StoreError::Damaged { .. } | StoreError::Full { .. }) => self.ended_by(error),
            error => error,
        }
    }

    fn ended_by(&self, error: StoreError) -> StoreError {
        self.trouble.get_or_init(|| error).clone()
    }

    pub(super) fn tree(&self, name: &str) -> std::result::Result<Tree, StoreError> {
        self.tables.lock().open_tree(name).map_err(|e| self.error(e))
    }

    pub(super) fn size_on_disk(&self) -> std::result::Result<u64, StoreError> {
        self.tables.lock().size_on_disk().map_err(|e| self.error(e))
    }

    /// One at a time: what waits here is not yet lost if the one before fails.
    pub(super) fn flush(&self) -> std::result::Result<(), StoreError> {
        let mut flushing = self.flushing.lock();
        if let Some(failure) = &flushing.failure {
            return Err(failure.clone());
        }
        let flushed = catch_unwind(AssertUnwindSafe(|| flushing.db.as_ref().map(|db| db.flush()).transpose()));
        let source = match flushed {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(source)) => source,
            Err(_) => Error::other("sled panicked while it flushed"),
        };
        let error = self.ended_by(StoreError::of(&self.path, source));
        flushing.failure = Some(error.clone());
        Err(error)
    }

    /// sled flushes whatever it closes, and aborts the process if that fails.
    fn close(&self) {
        if let Err(error) = self.flush() {
            tracing::error!(%error, "a store is left as it is, not closed");
            std::mem::forget(self.flushing.lock().db.take());
        }
    }
}

impl StoreError {
    /// What `source` says about the store in `path`.
    pub(super) fn of(path: &Path, source: Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof => Self::Damaged { path, reason: source.to_string() },
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Self::Full { path },
            _ => Self::Io { path, source: Arc::new(source) },
        }
    }
}
