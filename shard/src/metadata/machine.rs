//! The metadata as a replicated state: small, so that it is stored whole with every change.

use std::sync::Arc;

use bytes::Bytes;
use omma_proto::internal::v1::{Metadata, MetadataCommand, MetadataOutcome, MetadataRefusal, metadata_outcome};
use prost::Message;
use tokio::sync::watch;

use super::state;
use crate::format::{open, open_message, seal, seal_message};
use crate::group::state_machine::{Committed, SnapshotChunks, StateError, StateMachine};
use crate::store::{Batch, Store, Table};

const TABLE: &str = "metadata";
const STATE: &[u8] = b"state";
const RAFT: &[u8] = b"raft";
/// A snapshot of the metadata is one chunk: its collections and nodes are bounded.
const LARGEST: usize = 16 << 20;

/// The metadata group's state machine, and a view of it for everybody in the process.
#[derive(Clone)]
pub struct MetadataMachine {
    store: Store,
    table: Table,
    current: Arc<watch::Sender<Arc<Metadata>>>,
}

impl MetadataMachine {
    /// Opens the metadata in `store`, or begins with none.
    pub fn open(store: Store) -> Result<Self, StateError> {
        let table = store.table(TABLE)?;
        let metadata = match table.get(STATE)? {
            Some(value) => open_message("metadata", &value)?,
            None => Metadata::default(),
        };
        Ok(Self { store, table, current: Arc::new(watch::Sender::new(Arc::new(metadata))) })
    }

    /// As it is now on this node.
    pub fn current(&self) -> Arc<Metadata> {
        self.current.borrow().clone()
    }

    /// Notices every change.
    pub fn watch(&self) -> watch::Receiver<Arc<Metadata>> {
        self.current.subscribe()
    }

    fn keep(&self, metadata: &Metadata, raft: &Bytes) -> Result<(), StateError> {
        let mut batch = Batch::default();
        batch.insert(STATE, seal_message(metadata));
        batch.insert(RAFT, seal(raft));
        self.table.apply(batch)?;
        Ok(())
    }

    fn publish(&self, metadata: Metadata) {
        if metadata != **self.current.borrow() {
            self.current.send_replace(Arc::new(metadata));
        }
    }
}

impl StateMachine for MetadataMachine {
    fn raft_state(&self) -> Result<Option<Bytes>, StateError> {
        let value = self.table.get(RAFT)?;
        value.map(|v| open("Raft's state", &v).map(Bytes::copy_from_slice)).transpose()
    }

    fn apply(&self, entries: Vec<Committed>, raft: Bytes) -> Result<Vec<Bytes>, StateError> {
        let mut metadata = (*self.current()).clone();
        let mut outcomes = Vec::with_capacity(entries.len());
        for Committed { index, command } in entries {
            let outcome = command.map(|bytes| match MetadataCommand::decode(bytes) {
                Ok(command) => state::apply(&mut metadata, index, command),
                Err(_) => MetadataOutcome {
                    outcome: Some(metadata_outcome::Outcome::Refusal(MetadataRefusal::Invalid as i32)),
                    version: metadata.version,
                },
            });
            outcomes.push(outcome.map(|o| o.encode_to_vec().into()).unwrap_or_default());
        }
        self.keep(&metadata, &raft)?;
        self.publish(metadata);
        Ok(outcomes)
    }

    fn flush(&self) -> Result<(), StateError> {
        Ok(self.store.flush()?)
    }

    fn snapshot(&self) -> Result<(Bytes, SnapshotChunks), StateError> {
        let raft = self.raft_state()?.unwrap_or_default();
        let chunk = Bytes::from(self.current().encode_to_vec());
        Ok((raft, Box::new(std::iter::once(Ok(chunk)))))
    }

    fn install(&self, raft: Bytes, chunks: SnapshotChunks) -> Result<(), StateError> {
        let mut bytes = Vec::new();
        for chunk in chunks {
            bytes.extend_from_slice(&chunk?);
            if bytes.len() > LARGEST {
                return Err(StateError::Damaged {
                    what: "metadata snapshot".to_owned(),
                    reason: "too large".to_owned(),
                });
            }
        }
        let metadata = Metadata::decode(&bytes[..])
            .map_err(|e| StateError::Damaged { what: "metadata snapshot".to_owned(), reason: e.to_string() })?;
        self.keep(&metadata, &raft)?;
        self.flush()?;
        self.publish(metadata);
        Ok(())
    }
}
