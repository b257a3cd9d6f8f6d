//! A tiny state machine for tests: the list of commands, in memory or with a "disk" that outlives it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::state_machine::{Committed, SnapshotChunks, StateError, StateMachine};

/// Commands by log index, and Raft's bytes.
#[derive(Clone, Default)]
struct Contents {
    commands: BTreeMap<u64, Bytes>,
    raft: Option<Bytes>,
}

/// What `flush` makes durable; kept by the test over restarts.
#[derive(Default)]
pub(super) struct Disk {
    contents: Mutex<Contents>,
    /// How long it takes to install a snapshot, in milliseconds.
    pub(super) install_ms: std::sync::atomic::AtomicU64,
}

#[derive(Default)]
pub(super) struct MemoryState {
    contents: Arc<Mutex<Contents>>,
    disk: Option<Arc<Disk>>,
    pub(super) installs: std::sync::atomic::AtomicUsize,
}

impl MemoryState {
    /// As after a crash: with what was flushed.
    pub(super) fn on(disk: &Arc<Disk>) -> Arc<Self> {
        let contents = Arc::new(Mutex::new(disk.contents.lock().clone()));
        Arc::new(Self { contents, disk: Some(disk.clone()), installs: Default::default() })
    }

    pub(super) fn commands(&self) -> Vec<Bytes> {
        self.contents.lock().commands.values().cloned().collect()
    }
}

impl StateMachine for MemoryState {
    fn raft_state(&self) -> Result<Option<Bytes>, StateError> {
        Ok(self.contents.lock().raft.clone())
    }

    fn apply(&self, entries: Vec<Committed>, raft: Bytes) -> Result<Vec<Bytes>, StateError> {
        let mut contents = self.contents.lock();
        contents.raft = Some(raft);
        let apply = |entry: Committed| match entry.command {
            None => Bytes::new(),
            Some(command) => {
                let outcome = [b"did ", command.as_ref()].concat().into();
                contents.commands.insert(entry.index, command);
                outcome
            }
        };
        Ok(entries.into_iter().map(apply).collect())
    }

    fn flush(&self) -> Result<(), StateError> {
        if let Some(disk) = &self.disk {
            *disk.contents.lock() = self.contents.lock().clone();
        }
        Ok(())
    }

    /// Fuzzy, as the trait allows: each piece is read when it is sent, with what was applied meanwhile.
    fn snapshot(&self) -> Result<(Bytes, SnapshotChunks), StateError> {
        let (contents, mut next) = (self.contents.clone(), 0);
        let raft = contents.lock().raft.clone().unwrap_or_default();
        let pieces = std::iter::from_fn(move || {
            let contents = contents.lock();
            let (index, command) = contents.commands.range(next..).next()?;
            next = index + 1;
            Some(Ok(Bytes::from([&index.to_be_bytes()[..], command].concat())))
        });
        Ok((raft, Box::new(pieces)))
    }

    fn install(&self, raft: Bytes, chunks: SnapshotChunks) -> Result<(), StateError> {
        let mut commands = BTreeMap::new();
        for chunk in chunks {
            let mut index = chunk?;
            let command = index.split_off(8);
            commands.insert(u64::from_be_bytes(index.as_ref().try_into().unwrap()), command);
        }
        let slow = self.disk.as_ref().map_or(0, |disk| disk.install_ms.load(std::sync::atomic::Ordering::Relaxed));
        std::thread::sleep(std::time::Duration::from_millis(slow));
        *self.contents.lock() = Contents { commands, raft: Some(raft) };
        self.installs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.flush()
    }
}
