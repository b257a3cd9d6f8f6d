//! The metadata as a replicated state: small, so that it is stored whole with every change.

use std::sync::Arc;

use bytes::Bytes;
use omma_proto::internal::v1::{Metadata, MetadataCommand, MetadataOutcome, MetadataRefusal, metadata_outcome};
use prost::Message;
use tokio::sync::watch;

use super::{rules, state};
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
        rules::check(&metadata)?;
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
            rules::check(&metadata)?;
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
        rules::check(&metadata)?;
        self.keep(&metadata, &raft)?;
        self.flush()?;
        self.publish(metadata);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use omma_proto::internal::v1::metadata_command::Command;
    use omma_proto::internal::v1::{FormCluster, Group, Node, RaiseRules};

    use super::*;

    fn machine() -> (tempfile::TempDir, Store, MetadataMachine) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 64 << 20, Duration::from_secs(1)).unwrap();
        let machine = MetadataMachine::open(store.clone()).unwrap();
        (dir, store, machine)
    }

    #[test]
    fn a_replica_that_does_not_know_the_rules_ends_and_changes_nothing() {
        let (_dir, store, machine) = machine();
        let form = FormCluster {
            cluster_id: "c".into(),
            nodes: vec![Node { node_id: 1, ..Node::default() }],
            groups: vec![Group { group_id: 1, ..Group::default() }],
            encoder_space: None,
        };
        let apply = |index, command| {
            let command = Some(MetadataCommand { command: Some(command) }.encode_to_vec().into());
            machine.apply(vec![Committed { index, command }], Bytes::new())
        };
        let is_newer =
            |error: StateError| matches!(error, StateError::NewerRules { rules, .. } if rules > rules::NEWEST);
        apply(1, Command::FormCluster(form)).unwrap();
        apply(2, Command::RaiseRules(RaiseRules { rules: rules::NEWEST })).unwrap();
        let before = machine.current();
        let newer = RaiseRules { rules: rules::NEWEST + 1 };
        assert!(apply(3, Command::RaiseRules(newer)).is_err_and(is_newer));
        assert_eq!(machine.current(), before);

        // As another version has left it behind, or sends it.
        let left = Metadata { rules: rules::NEWEST + 1, ..(*before).clone() };
        let sent = Bytes::from(left.encode_to_vec());
        assert!(machine.install(Bytes::new(), Box::new(std::iter::once(Ok(sent)))).is_err_and(is_newer));
        assert!(MetadataMachine::open(store.clone()).is_ok());
        machine.keep(&left, &Bytes::new()).unwrap();
        assert!(MetadataMachine::open(store).err().is_some_and(is_newer));
    }
}
