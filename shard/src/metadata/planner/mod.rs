//! Where replicas live: pure, what is known in, next steps out.
//!
//! The metadata leader asks [`plan`] again and again, does what it says, and looks again. Nothing is remembered but
//! what is replicated: the cluster map with its moves, and each group's members. So whoever leads next goes on, and a
//! step that is lost, late or repeated does no harm.
//!
//! A replica moves so: the map gets the move (`Begin`), the receiving node becomes a learner of the group and catches
//! up (`AddLearner`), takes the old replica's place among the voters (`SetVoters`, after `Transfer` if the old one
//! leads), and the map follows (`End`). No group ever has fewer voters than replicas.
//!
//! How slots move, once the map has such a move, is in `node/slots.rs`: that takes more than a step.

mod first;
mod follow;
mod groups;
mod members;
mod move_step;
mod raise;
mod rest;
mod spread;

#[cfg(test)]
mod simulation;

use std::collections::{BTreeMap, BTreeSet};

use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::{
    AddGroup, BeginMove, BeginSlotMove, DiskRoom, EndMove, Metadata, Node, PreferLeader, RaiseRules, RemoveNode,
    ReplicaMove, RetireGroup, SetNodeState, SlotRange,
};
use omma_proto::v1::{MoveReason, NodeState};

pub(crate) use first::{first_placement, metadata_members};

use super::nodes::{concerns, is_active};

/// Moves under way at a time, in the whole cluster. Each node receives one replica at a time.
const MOST_MOVES: usize = 4;

/// Whether a node is heard from; the greater, the less it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    /// It answers.
    Up,
    /// Silent, but not for long: nothing is moved because of it.
    Away,
    /// Silent for so long that its replicas are rebuilt elsewhere.
    Lost,
}

/// What is known of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeView {
    /// Whether it is heard from.
    pub(crate) health: Health,
    /// Shard groups of which it has anything on its disk, as it said last.
    pub(crate) held: BTreeSet<GroupId>,
    /// On its disk, as it said last.
    pub(crate) room: DiskRoom,
    /// The newest rules of the metadata that it knows, as it said last; 0 if it never said.
    pub(crate) rules: u32,
}

/// A group, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GroupView {
    /// Its leader.
    pub(crate) leader: NodeId,
    /// That it has led for a while.
    pub(crate) settled: bool,
    /// Log index of its newest members.
    pub(crate) members_index: u64,
    /// They are committed.
    pub(crate) committed: bool,
    /// They are two sets of voters: a change was cut off half-way, or is under way.
    pub(crate) joint: bool,
    /// Who votes.
    pub(crate) voters: BTreeSet<NodeId>,
    /// Who only replicates.
    pub(crate) learners: BTreeSet<NodeId>,
    /// Members that answer, are caught up and can serve.
    pub(crate) ready: BTreeSet<NodeId>,
    /// How many it has.
    pub(crate) images: u64,
}

/// All that decisions depend on.
#[derive(Debug, Clone)]
pub(crate) struct View<'a> {
    /// Replicated.
    pub(crate) metadata: &'a Metadata,
    /// Every node of the metadata.
    pub(crate) nodes: &'a BTreeMap<NodeId, NodeView>,
    /// Groups that have a leader which answers; the metadata group among them.
    pub(crate) groups: &'a BTreeMap<GroupId, GroupView>,
    /// Whether leadership may move now; it does so at a gentle pace.
    pub(crate) may_transfer: bool,
}

/// What to do next. Doing it twice, or late, has no effect: changes of members name the members that they are planned
/// for, changes of the map its epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// The map gets a move.
    Begin { group: GroupId, from: NodeId, to: NodeId, reason: MoveReason },
    /// The move to that node is over: done, or given up.
    End { group: GroupId, to: NodeId, done: bool },
    /// The node becomes a learner.
    AddLearner { group: GroupId, node: NodeId, members_index: u64 },
    /// The learner leaves the group.
    RemoveLearner { group: GroupId, node: NodeId, members_index: u64 },
    /// These become the voters.
    SetVoters { group: GroupId, voters: BTreeSet<NodeId>, members_index: u64 },
    /// A change of voters that was cut off is ended.
    LeaveJoint { group: GroupId, members_index: u64 },
    /// The leadership moves.
    Transfer { group: GroupId, to: NodeId, members_index: u64 },
    /// The node's replica comes first: there leadership should rest.
    Prefer { group: GroupId, node: NodeId },
    /// The node holds nothing any more.
    Drained { node: NodeId },
    /// The node is forgotten.
    Remove { node: NodeId },
    /// There is a new group, without slots.
    AddGroup { replicas: Vec<NodeId> },
    /// Slots begin to move.
    MoveSlots { from: GroupId, to: GroupId, slots: Vec<SlotRange> },
    /// The group has nothing left, and goes.
    Retire { group: GroupId },
    /// Commands of the metadata are applied by newer rules.
    RaiseRules { rules: u32 },
}

/// The next steps: at most one for each group and node, all of which may be done at once.
pub(crate) fn plan(view: &View) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for group in &view.metadata.groups {
        steps.extend(view.groups.get(&group.group_id).and_then(|members| move_step::next(view, group, members)));
    }
    steps.extend(view.groups.get(&METADATA_GROUP).and_then(|members| members::next(view, members)));
    steps.extend(view.metadata.nodes.iter().filter_map(|node| leave(view, node)));
    // However moves are paused: nothing is copied, and writes wait for it.
    steps.extend(rest::relieve(view));
    match follow::begin(view) {
        Some(step) => steps.push(step),
        None if view.metadata.moves_paused => {}
        None => steps.extend(spread::begin(view)),
    }
    if !steps.iter().any(|s| matches!(s, Step::Begin { .. } | Step::End { .. })) {
        steps.extend(groups::next(view));
    }
    if steps.is_empty() && !view.metadata.moves_paused {
        steps.extend(spread::prefer(view).or_else(|| rest::back(view)));
    }
    // The last: it leaves the map's epoch as it is.
    steps.extend(raise::next(view));
    steps
}

/// A node that is to go and has nothing left.
fn leave(view: &View, node: &Node) -> Option<Step> {
    let node_id = node.node_id;
    let votes = view.groups.get(&METADATA_GROUP).is_none_or(|m| !m.committed)
        || view.groups.values().any(|m| m.voters.contains(&node_id));
    if votes || view.metadata.groups.iter().any(|g| concerns(g, node_id)) {
        return None;
    }
    let known = view.nodes.get(&node_id)?;
    match node.state() {
        // One that is silent cannot say what is on its disk; nothing there is needed any more.
        NodeState::Draining if known.held.is_empty() || known.health != Health::Up => {
            Some(Step::Drained { node: node_id })
        }
        NodeState::Replaced => Some(Step::Remove { node: node_id }),
        _ => None,
    }
}

impl View<'_> {
    fn node(&self, node_id: NodeId) -> Option<&Node> {
        self.metadata.nodes.iter().find(|n| n.node_id == node_id)
    }

    fn health(&self, node_id: NodeId) -> Health {
        self.nodes.get(&node_id).map_or(Health::Away, |n| n.health)
    }

    /// Ample where nobody has said otherwise.
    fn room(&self, node_id: NodeId) -> DiskRoom {
        match self.nodes.get(&node_id).map(|n| n.room) {
            None | Some(DiskRoom::Unspecified) => DiskRoom::Ample,
            Some(room) => room,
        }
    }

    /// Whether a replica may be given to the node, or stay there.
    fn usable(&self, node_id: NodeId) -> bool {
        self.node(node_id).is_some_and(is_active) && self.health(node_id) == Health::Up
    }

    /// Why replicas have to leave the node, if they have.
    fn must_leave(&self, node_id: NodeId) -> Option<MoveReason> {
        match self.node(node_id).map(Node::state) {
            None | Some(NodeState::Replaced) => Some(MoveReason::Replaced),
            Some(NodeState::Draining | NodeState::Drained) => Some(MoveReason::Drain),
            _ if self.health(node_id) == Health::Lost => Some(MoveReason::Away),
            _ => None,
        }
    }
}

impl Step {
    /// The metadata command of a step that changes the map; `None` if it changes a group's members. `epoch` is that of
    /// the map which the step was planned for.
    pub(crate) fn command(&self, epoch: u64, now: Option<prost_types::Timestamp>) -> Option<Command> {
        Some(match *self {
            Self::AddGroup { ref replicas } => Command::AddGroup(AddGroup { replicas: replicas.clone(), epoch }),
            Self::MoveSlots { from, to, ref slots } => Command::BeginSlotMove(BeginSlotMove {
                from_group_id: from,
                to_group_id: to,
                slots: slots.clone(),
                begin_time: now,
                epoch,
            }),
            Self::Retire { group } => Command::RetireGroup(RetireGroup { group_id: group, epoch }),
            Self::Begin { group, from, to, reason } => {
                let new = ReplicaMove { from_node_id: from, to_node_id: to, reason: reason.into(), begin_time: now };
                Command::BeginMove(BeginMove { group_id: group, r#move: Some(new), epoch })
            }
            Self::End { group, to, done } => Command::EndMove(EndMove { group_id: group, to_node_id: to, done, epoch }),
            Self::Prefer { group, node } => {
                Command::PreferLeader(PreferLeader { group_id: group, node_id: node, epoch })
            }
            Self::Drained { node } => {
                Command::SetNodeState(SetNodeState { node_id: node, state: NodeState::Drained.into() })
            }
            Self::RaiseRules { rules } => Command::RaiseRules(RaiseRules { rules }),
            Self::Remove { node } => Command::RemoveNode(RemoveNode { node_id: node }),
            _ => return None,
        })
    }
}
