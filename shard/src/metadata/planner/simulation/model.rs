//! A group and a node, as far as the planner's steps concern them.

use std::collections::{BTreeMap, BTreeSet};

use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1::DiskRoom;

/// A group and the copies of it.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) members_index: u64,
    /// The voters before a change that was cut off.
    pub(super) old: Option<BTreeSet<NodeId>>,
    pub(super) voters: BTreeSet<NodeId>,
    pub(super) learners: BTreeSet<NodeId>,
    pub(super) leader: Option<NodeId>,
    pub(super) led_for: u32,
    /// How much of the group each node has, of [`Model::FULL`].
    pub(super) copies: BTreeMap<NodeId, u32>,
}

impl Model {
    pub(super) const FULL: u32 = 5;

    pub(super) fn has_quorum(&self, up: &BTreeSet<NodeId>) -> bool {
        self.voters_answer(up) && self.old.as_ref().is_none_or(|old| self.majority(old, up))
    }

    /// Whether a majority of the newest voters can commit anything.
    pub(super) fn voters_answer(&self, up: &BTreeSet<NodeId>) -> bool {
        self.majority(&self.voters, up)
    }

    fn majority(&self, set: &BTreeSet<NodeId>, up: &BTreeSet<NodeId>) -> bool {
        let alive = |v: &&NodeId| up.contains(v) && self.copies.get(v) == Some(&Self::FULL);
        set.iter().filter(alive).count() * 2 > set.len()
    }
}

#[derive(Debug, Default)]
pub(super) struct SimNode {
    pub(super) up: bool,
    pub(super) room: DiskRoom,
    /// Never comes back.
    pub(super) dead: bool,
    pub(super) silent: u32,
    pub(super) held: BTreeSet<GroupId>,
}
