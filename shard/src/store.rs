//! This file and its folder are the only ones that name sled: tables of sorted bytes, atomic batches, and a flush that is
//! a real fsync.
//!
//! sled's limits shape this interface: a batch covers one table, a flush covers the whole store, and many threads
//! that flush at once only wait for each other. So a store has one thread that flushes for durability's sake (the
//! log's writer, the checkpointer), and what must change together lives in one table under different key prefixes.

mod engine;
mod frames;
mod metadata;
mod opening;

use std::ops::{Bound, RangeBounds};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use engine::Home;

/// Entries per leaf. Part of the format: a store must never be opened with another value. Small, because a changed
/// entry rewrites its leaf, and entries of a few kilobytes are the rule here.
const LEAF_FANOUT: usize = 16;
/// zstd level of what is written. Embeddings hardly compress: take the fastest.
const COMPRESSION: i32 = -7;

/// A stored value; dereferences to bytes.
pub use sled::InlineArray as Value;

/// The store failed. What was flushed before is safe, unless it is damaged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be opened as a store.
    #[error("cannot open the store {path}: {source}. If another process has it open, stop that")]
    Open {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// What is on disk is not what was written. Nothing of the store can be relied on any more.
    #[error("the store {path} is damaged: {reason}")]
    Damaged {
        /// The folder.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The disk is full. The store takes nothing more until it is opened again.
    #[error("the disk of the store {path} is full: make room on it")]
    Full {
        /// The folder.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("the store {path} failed: {source}")]
    Io {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
}

/// A folder of tables.
#[derive(Clone)]
pub struct Store {
    home: Arc<Home>,
}

/// A sorted map from bytes to bytes.
#[derive(Clone)]
pub struct Table {
    tree: Handles<sled::Tree<LEAF_FANOUT>>,
    /// After the tree: whoever is the last to let go of it closes the store.
    home: Arc<Home>,
}

/// sled's handles may move between threads but not be shared by them (each has its own epoch for reclaiming memory),
/// and a new one is not cheap: this lends one to each caller, and keeps some for the next.
struct Handles<T>(Arc<Lent<T>>);

/// Handles that are kept: each holds memory for what it read.
const MOST_IDLE: usize = 64;

struct Lent<T> {
    first: Mutex<T>,
    idle: Mutex<Vec<T>>,
}

impl<T> Clone for Handles<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Clone> Handles<T> {
    fn new(first: T) -> Self {
        Self(Arc::new(Lent { first: Mutex::new(first), idle: Mutex::default() }))
    }

    fn with<R>(&self, work: impl FnOnce(&T) -> R) -> R {
        let idle = self.0.idle.lock().pop();
        let handle = idle.unwrap_or_else(|| self.0.first.lock().clone());
        let result = work(&handle);
        let mut idle = self.0.idle.lock();
        if idle.len() < MOST_IDLE {
            idle.push(handle);
        }
        result
    }
}

/// Changes of one table that happen together or not at all.
#[derive(Default)]
pub struct Batch {
    changes: sled::Batch,
    len: usize,
}

impl Batch {
    /// Sets `key`.
    pub fn insert(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.changes.insert(key.as_ref(), value.as_ref());
        self.len += 1;
    }

    /// Removes `key`, if it is there.
    pub fn remove(&mut self, key: impl AsRef<[u8]>) {
        self.changes.remove(key.as_ref());
        self.len += 1;
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing would change.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

impl Store {
    /// Opens or creates the store in the folder `path`. Only one process may have it open.
    ///
    /// Changes reach the disk with the next [`Store::flush`], or within `flush_every` by themselves.
    pub fn open(path: &Path, cache_bytes: usize, flush_every: Duration) -> Result<Self, StoreError> {
        let config = sled::Config {
            path: path.to_owned(),
            cache_capacity_bytes: cache_bytes,
            flush_every_ms: Some(engine::NEVER_MS),
            zstd_compression_level: COMPRESSION,
            ..sled::Config::default()
        };
        let opened = metadata::prepare(path).and_then(|()| opening::open(&config));
        let home = opened.and_then(|db| Home::new(path, db, flush_every));
        let home = home.map_err(|source| match StoreError::of(path, source) {
            StoreError::Io { path, source } => StoreError::Open { path, source },
            known => known,
        })?;
        Ok(Self { home: Arc::new(home) })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.home.path
    }

    /// What has ended this store's use, if anything has: damage, lack of room, or a flush that failed.
    pub fn trouble(&self) -> Option<StoreError> {
        self.home.trouble()
    }

    /// Opens or creates a table.
    pub fn table(&self, name: &str) -> Result<Table, StoreError> {
        let tree = self.home.tree(name)?;
        Ok(Table { tree: Handles::new(tree), home: self.home.clone() })
    }

    /// Empties a table, one entry after the other. Its name stays, and can be used again: after sled's own `drop_tree`
    /// the store may not open any more (sled forgets the name but not the tree, and counts both when it opens).
    pub fn drop_table(&self, name: &str) -> Result<(), StoreError> {
        self.home.tree(name)?.clear().map_err(|e| self.home.error(e))
    }

    /// Returns when every change made so far, in all tables, is on disk (fsync). After a failure there is no other try.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.home.flush()
    }

    /// Bytes that the store takes on disk.
    pub fn size_on_disk(&self) -> Result<u64, StoreError> {
        self.home.size_on_disk()
    }
}

impl Table {
    /// As [`Store::trouble`].
    pub fn trouble(&self) -> Option<StoreError> {
        self.home.trouble()
    }

    fn error(&self, source: std::io::Error) -> StoreError {
        self.home.error(source)
    }

    /// The value at `key`.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<Value>, StoreError> {
        self.tree.with(|tree| tree.get(key)).map_err(|e| self.error(e))
    }

    /// Whether there is something at `key`.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> Result<bool, StoreError> {
        self.tree.with(|tree| tree.contains_key(key)).map_err(|e| self.error(e))
    }

    /// Makes all changes of `batch`, atomically also over a crash.
    pub fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        if batch.is_empty() {
            return Ok(());
        }
        self.tree.with(|tree| tree.apply_batch(batch.changes)).map_err(|e| self.error(e))
    }

    /// Entries with keys in `range`, in order; an error is the last. Not a snapshot: changes made meanwhile may or may not
    /// be seen.
    pub fn range<R: RangeBounds<Vec<u8>>>(
        &self,
        range: R,
    ) -> impl Iterator<Item = Result<(Value, Value), StoreError>> + Send + use<R> {
        let (home, start, end) = (self.home.clone(), range.start_bound().cloned(), range.end_bound().cloned());
        // The end is not for sled to know: it reads on to the table's last leaf before it says that a range is over.
        let entries = self.tree.with(|tree| tree.range((start, Bound::Unbounded)));
        let within = move |key: &[u8]| match &end {
            Bound::Included(end) => key <= end.as_slice(),
            Bound::Excluded(end) => key < end.as_slice(),
            Bound::Unbounded => true,
        };
        let entries = entries.map(move |entry| entry.map_err(|source| home.error(source)));
        // An error is the last entry: sled would say it again and again, without end.
        let mut failed = false;
        entries.take_while(move |entry| {
            !std::mem::replace(&mut failed, entry.is_err()) && entry.as_ref().map_or(true, |(key, _)| within(key))
        })
    }

    /// Entries whose keys begin with `prefix`, in order, as with [`Table::range`].
    pub fn prefix(&self, prefix: &[u8]) -> impl Iterator<Item = Result<(Value, Value), StoreError>> + Send + use<> {
        let end = match end_of(prefix) {
            Some(end) => Bound::Excluded(end),
            None => Bound::Unbounded,
        };
        self.range((Bound::Included(prefix.to_vec()), end))
    }

    /// Removes all entries whose keys begin with `prefix`, in batches; returns how many there were. Not atomic.
    pub fn remove_prefix(&self, prefix: &[u8]) -> Result<usize, StoreError> {
        const PER_BATCH: usize = 1024;
        let mut removed = 0;
        loop {
            let mut batch = Batch::default();
            for entry in self.prefix(prefix).take(PER_BATCH) {
                batch.remove(entry?.0);
            }
            if batch.is_empty() {
                return Ok(removed);
            }
            removed += batch.len();
            self.apply(batch)?;
        }
    }
}

/// The smallest key that is greater than all that begin with `prefix`; `None` if there is none.
fn end_of(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&b| b != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[cfg(test)]
#[path = "store/tests.rs"]
mod tests;

#[cfg(test)]
#[path = "store/damage_tests.rs"]
mod damage_tests;

#[cfg(test)]
#[path = "store/killed_tests.rs"]
mod killed_tests;

#[cfg(test)]
#[path = "store/kill_tests.rs"]
mod kill_tests;
