//! The metadata group's members: every node of the cluster learns, a few vote.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use omma_common::ids::{METADATA_GROUP, NodeId};
use omma_proto::internal::v1::Node;
use omma_proto::v1::NodeState;

use super::first::metadata_size;
use super::{GroupView, Health, Step, View};
use crate::metadata::nodes::is_active;

/// `None`: there is nothing to do, or something to wait for.
pub(super) fn next(view: &View, members: &GroupView) -> Option<Step> {
    let (group, members_index) = (METADATA_GROUP, members.members_index);
    if !members.committed {
        return None;
    }
    if members.joint {
        return Some(Step::LeaveJoint { group, members_index });
    }
    let is_member = |id: &NodeId| members.voters.contains(id) || members.learners.contains(id);
    let missing = view.metadata.nodes.iter().find(|n| n.state() != NodeState::Replaced && !is_member(&n.node_id));
    if let Some(node) = missing {
        return Some(Step::AddLearner { group, node: node.node_id, members_index });
    }
    if let Some(stray) = members.learners.iter().find(|id| view.node(**id).is_none()) {
        return Some(Step::RemoveLearner { group, node: *stray, members_index });
    }
    let voters = wanted(view, members);
    if voters == members.voters || voters.is_empty() {
        return None;
    }
    if !voters.contains(&members.leader)
        && let Some(heir) = voters.iter().find(|id| members.voters.contains(id) && members.ready.contains(id))
    {
        return Some(Step::Transfer { group, to: *heir, members_index });
    }
    Some(Step::SetVoters { group, voters, members_index })
}

/// Who should vote. Whoever does and may stay, does stay; places are filled with nodes that are ready, from zones that
/// have no voter first; a voter that should go keeps its place while nobody can take it.
fn wanted(view: &View, members: &GroupView) -> BTreeSet<NodeId> {
    let nodes: Vec<&Node> = view.metadata.nodes.iter().collect();
    let size = metadata_size(nodes.iter().filter(|n| is_active(n)).count());
    let lost = |n: &Node| view.health(n.node_id) == Health::Lost;
    let votes = |n: &Node| members.voters.contains(&n.node_id);
    let (mut staying, others): (Vec<&Node>, Vec<&Node>) =
        nodes.iter().copied().partition(|n| votes(n) && is_active(n) && !lost(n));
    // The leader stays before others: nothing has to be handed over.
    staying.sort_by_key(|n| (n.node_id != members.leader, Reverse(view.health(n.node_id) == Health::Up), n.node_id));
    let mut chosen: Vec<&Node> = staying.into_iter().take(size).collect();
    let ready = |n: &&Node| !votes(n) && view.usable(n.node_id) && members.ready.contains(&n.node_id);
    let mut spares: Vec<&Node> = others.iter().copied().filter(ready).collect();
    while chosen.len() < size && !spares.is_empty() {
        let new_zone = spares.iter().position(|s| chosen.iter().all(|c| c.zone != s.zone));
        chosen.push(spares.remove(new_zone.unwrap_or(0)));
    }
    // Replaced nodes never come back, so their places are of least use.
    let mut going: Vec<NodeId> =
        members.voters.iter().copied().filter(|id| chosen.iter().all(|c| c.node_id != *id)).collect();
    going.sort_by_key(|id| (view.must_leave(*id).is_some() && view.health(*id) != Health::Up, *id));
    let kept = going.into_iter().take(size.saturating_sub(chosen.len()));
    chosen.iter().map(|n| n.node_id).chain(kept).collect()
}
