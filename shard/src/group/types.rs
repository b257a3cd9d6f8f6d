//! The one type configuration of all groups: commands and outcomes are opaque bytes.

use std::fmt;

use bytes::Bytes;
use omma_common::ids::NodeId;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::{BasicNode, alias};
use serde::{Deserialize, Serialize};

use super::trail::Trail;

/// An application's command, and its trace where it was proposed. Cloning shares the bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Command(pub(super) Bytes, #[serde(skip)] pub(super) Trail);

// Never prints the bytes: commands hold embeddings.
impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

openraft::declare_raft_types!(
    /// Of all groups.
    pub(super) Config: D = Command, R = Bytes, NodeId = NodeId, Node = BasicNode,
);

pub(super) type Leader = LeaderId<u64, NodeId>;
pub(super) type Vote = openraft::Vote<Leader>;
pub(super) type LogId = alias::LogIdOf<Config>;
pub(super) type Entry = alias::EntryOf<Config>;
pub(super) type Membership = openraft::Membership<NodeId, BasicNode>;
pub(super) type StoredMembership = alias::StoredMembershipOf<Config>;
pub(super) type SnapshotMeta = alias::SnapshotMetaOf<Config>;
pub(super) type Snapshot = alias::SnapshotOf<Config, super::snapshot::SnapshotData>;
pub(super) type RpcError = openraft::errors::RPCError<Config>;
pub(super) type Raft = openraft::Raft<Config, super::machine::Machine>;
