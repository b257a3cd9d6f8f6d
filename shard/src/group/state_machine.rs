//! What a group needs of the state that it replicates, without a word of openraft.

use std::path::PathBuf;

use bytes::Bytes;

use crate::room::NoRoom;
use crate::store::StoreError;

/// One committed log entry.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Its log index.
    pub index: u64,
    /// The application's command; `None` for Raft's own entries, which take part only as an index.
    pub command: Option<Bytes>,
}

/// Applying, reading or transferring state failed. Fatal for the replica: it stops rather than diverge.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Stored or transferred bytes are damaged.
    #[error("damaged {what}: {reason}")]
    Damaged {
        /// Which record, checkpoint, snapshot, …
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A snapshot was installed and the entries after it are still being applied.
    #[error("this replica is catching up; ask another")]
    Settling,
    /// The collection was deleted.
    #[error("the collection was deleted")]
    Dropped,
    /// The group does not serve all the slots that were asked for.
    #[error("this replica does not serve these slots; refresh the cluster map")]
    SlotsMoved,
    /// A cut is not there any more.
    #[error(
        "the backup's cut is gone: it was not read for two minutes, or too much was removed; begin the group again"
    )]
    CutGone,
    /// More cuts than there may be.
    #[error("{0} backups of this group are under way already: try again in two minutes")]
    TooManyCuts(usize),
    /// The replicated state goes by rules that this version does not know.
    #[error(
        "the cluster's metadata goes by rules {rules}, and this version knows them up to {known}: run one that is as new as \
         the other nodes'"
    )]
    NewerRules {
        /// Those of the cluster.
        rules: u32,
        /// The newest that are known here.
        known: u32,
    },
    /// The vector index failed.
    #[error("the index failed: {0}")]
    Index(#[from] crate::index::IndexError),
    /// A file beside the store cannot be used.
    #[error("cannot use {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// There is too little room for what could be done without.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// Reading a transferred snapshot failed.
    #[error("cannot read the transferred snapshot: {0}")]
    Transfer(#[from] std::io::Error),
}

/// Pieces of a snapshot, each at most about 1 MiB. Read on a blocking thread.
pub type SnapshotChunks = Box<dyn Iterator<Item = Result<Bytes, StateError>> + Send>;

/// A replicated state. All methods block; they are called on blocking threads.
///
/// `apply` and `install` are never called at the same time as each other or as themselves; the rest may be.
/// Applying must depend on nothing but the state and the commands: no clock, no chance, no floating-point arithmetic.
///
/// `raft` is opaque to the state machine (it holds the last applied log id and the membership): it stores the newest
/// one atomically with the changes that it belongs to, and gives it back after a restart.
pub trait StateMachine: Send + Sync + 'static {
    /// The `raft` bytes stored last; `None` if nothing was ever applied or installed.
    fn raft_state(&self) -> Result<Option<Bytes>, StateError>;

    /// Applies `entries`, in order, and stores `raft`, all in one atomic batch that need not be flushed. Returns one
    /// outcome per entry (empty for entries without a command).
    ///
    /// After a crash, or after a snapshot was installed, entries that were applied before may be applied again, in
    /// order: the state that results must be the same.
    fn apply(&self, entries: Vec<Committed>, raft: Bytes) -> Result<Vec<Bytes>, StateError>;

    /// Makes everything applied so far durable.
    fn flush(&self) -> Result<(), StateError>;

    /// The state as it is now, as a snapshot, with its `raft` bytes. Called while nothing is applied; the chunks are
    /// read later, while more is applied: they may contain effects of later entries, as long as applying those again,
    /// in order, leads to the right state.
    fn snapshot(&self) -> Result<(Bytes, SnapshotChunks), StateError>;

    /// Replaces the whole state by a transferred snapshot, durably, and atomically over a crash.
    fn install(&self, raft: Bytes, chunks: SnapshotChunks) -> Result<(), StateError>;
}
