//! The next step of one group's move.

use omma_common::ids::NodeId;
use omma_proto::internal::v1::{Group, ReplicaMove};
use omma_proto::v1::MoveReason;

use super::{GroupView, Health, Step, View};
use crate::metadata::nodes::is_active;

/// `None`: there is nothing to do, or something to wait for.
pub(super) fn next(view: &View, group: &Group, members: &GroupView) -> Option<Step> {
    let (id, members_index) = (group.group_id, members.members_index);
    if !members.committed {
        return None;
    }
    if members.joint {
        return Some(Step::LeaveJoint { group: id, members_index });
    }
    let coming = group.r#move.as_ref().map(|m| m.to_node_id);
    // Of a move that was given up just when it began.
    if let Some(stray) = members.learners.iter().find(|l| Some(**l) != coming) {
        return Some(Step::RemoveLearner { group: id, node: *stray, members_index });
    }
    let current = group.r#move.as_ref()?;
    let (from, to) = (current.from_node_id, current.to_node_id);
    let (is_learner, is_voter) = (members.learners.contains(&to), members.voters.contains(&to));
    if is_voter && !members.voters.contains(&from) {
        return Some(Step::End { group: id, to, done: true });
    }
    if !is_voter && !is_wanted(view, current) {
        // First out of the group, so that no late step can make it a voter.
        return Some(match is_learner {
            true => Step::RemoveLearner { group: id, node: to, members_index },
            false => Step::End { group: id, to, done: false },
        });
    }
    if view.metadata.moves_paused {
        return None;
    }
    if !is_learner {
        return Some(Step::AddLearner { group: id, node: to, members_index });
    }
    if !members.ready.contains(&to) {
        return None;
    }
    let mut voters = members.voters.clone();
    voters.remove(&from);
    if members.leader == from && !voters.is_empty() {
        let heir = heir(view, group, members, from)?;
        return Some(Step::Transfer { group: id, to: heir, members_index });
    }
    voters.insert(to);
    Some(Step::SetVoters { group: id, voters, members_index })
}

/// Whether a move that is not through yet should go on.
fn is_wanted(view: &View, current: &ReplicaMove) -> bool {
    let receives =
        view.node(current.to_node_id).is_some_and(is_active) && view.health(current.to_node_id) != Health::Lost;
    let from = current.from_node_id;
    receives
        && match current.reason() {
            // Its node may have come back, or may stay after all.
            MoveReason::Away | MoveReason::Drain => {
                view.must_leave(from).is_some() || view.health(from) == Health::Away
            }
            _ => true,
        }
}

/// Who leads when the replica on `from` is to go: the first that can.
fn heir(view: &View, group: &Group, members: &GroupView, from: NodeId) -> Option<NodeId> {
    let can = |id: &NodeId| {
        *id != from && members.voters.contains(id) && members.ready.contains(id) && view.health(*id) == Health::Up
    };
    group.replicas.iter().copied().find(can)
}
