//! The metadata group's members: every node of the cluster learns, a few vote.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use omma_common::ids::{METADATA_GROUP, NodeId};
use omma_proto::internal::v1::Node;
use omma_proto::v1::{MoveReason, NodeState};

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
    if voters == members.voters || !can_decide(members, &voters) {
        return None;
    }
    if !voters.contains(&members.leader)
        && let Some(heir) = voters.iter().find(|id| members.voters.contains(id) && members.ready.contains(id))
    {
        return Some(Step::Transfer { group, to: *heir, members_index });
    }
    Some(Step::SetVoters { group, voters, members_index })
}

/// Whether a majority of `voters` answers: otherwise the change to them would never be committed, nor anything after it.
fn can_decide(members: &GroupView, voters: &BTreeSet<NodeId>) -> bool {
    voters.intersection(&members.ready).count() * 2 > voters.len()
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
    // Whoever answers is of more use than who may be back, and that more than who never will.
    let mut going: Vec<NodeId> =
        members.voters.iter().copied().filter(|id| chosen.iter().all(|c| c.node_id != *id)).collect();
    let replaced = |id| view.must_leave(id) == Some(MoveReason::Replaced);
    going.sort_by_key(|id| (replaced(*id), view.health(*id), *id));
    let kept = going.into_iter().take(size.saturating_sub(chosen.len()));
    chosen.iter().map(|n| n.node_id).chain(kept).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::metadata::planner::NodeView;
    use omma_proto::internal::v1::{DiskRoom, Metadata};

    /// Three nodes vote and two are being drained; the one that is to stay does not answer.
    fn next_while(third: Health) -> Option<Step> {
        let state = |id| if id < 3 { NodeState::Draining } else { NodeState::Active };
        let nodes = (1..=3).map(|id| Node { node_id: id, state: state(id).into(), ..Node::default() });
        let metadata = Metadata { nodes: nodes.collect(), ..Metadata::default() };
        let health = |id| if id < 3 { Health::Up } else { third };
        let seen: BTreeMap<_, _> = (1..=3)
            .map(|id| (id, NodeView { health: health(id), held: BTreeSet::new(), room: DiskRoom::Ample, rules: 0 }))
            .collect();
        let members = GroupView {
            leader: 2,
            settled: true,
            members_index: 7,
            committed: true,
            joint: false,
            voters: (1..=3).collect(),
            learners: BTreeSet::new(),
            ready: (1..=3).filter(|id| health(*id) == Health::Up).collect(),
            images: 0,
        };
        let view = View { metadata: &metadata, nodes: &seen, groups: &BTreeMap::new(), may_transfer: true };
        next(&view, &members)
    }

    #[test]
    fn who_does_not_answer_is_not_left_to_vote_alone() {
        let transfer = |to| Some(Step::Transfer { group: METADATA_GROUP, to, members_index: 7 });
        assert_eq!(next_while(Health::Up), transfer(3));
        assert_eq!(next_while(Health::Away), None, "it may come back");
        assert_eq!(next_while(Health::Lost), transfer(1), "somebody has to decide");
    }
}
