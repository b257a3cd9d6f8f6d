//! The map follows a group that changed its members after the move to them was given up: the end of a move that was sent
//! when it was not wanted, and arrives after all when it was wanted again and had gone on.

use omma_proto::internal::v1::Group;
use omma_proto::v1::MoveReason;

use super::{GroupView, MOST_MOVES, Step, View};

/// The beginning of a move that is through already, so that its end is what comes next.
pub(super) fn begin(view: &View) -> Option<Step> {
    let under_way = view.metadata.groups.iter().filter(|g| g.r#move.is_some()).count();
    let mut groups = view.metadata.groups.iter().filter(|_| under_way < MOST_MOVES);
    groups.find_map(|group| behind(view, group, view.groups.get(&group.group_id)?))
}

fn behind(view: &View, group: &Group, members: &GroupView) -> Option<Step> {
    if group.r#move.is_some() || !members.committed || members.joint {
        return None;
    }
    let from = *group.replicas.iter().find(|id| !members.voters.contains(id))?;
    let to = *members.voters.iter().find(|id| !group.replicas.contains(id) && view.node(**id).is_some())?;
    let reason = view.must_leave(from).unwrap_or(MoveReason::Spread);
    Some(Step::Begin { group: group.group_id, from, to, reason })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::metadata::planner::move_step;
    use omma_common::ids::NodeId;
    use omma_proto::internal::v1::{Metadata, Node, ReplicaMove};

    /// What comes next for a group whose voters are these, if its map says 1, 2 and 3 and there are five nodes.
    fn next(voters: &[NodeId], current: Option<ReplicaMove>) -> (Option<Step>, Option<Step>) {
        let group = Group { group_id: 1, replicas: vec![1, 2, 3], r#move: current, ..Group::default() };
        let nodes = (1..=5).map(|node_id| Node { node_id, ..Node::default() }).collect();
        let metadata = Metadata { nodes, groups: vec![group.clone()], ..Metadata::default() };
        let members = GroupView {
            leader: 1,
            settled: true,
            members_index: 7,
            committed: true,
            joint: false,
            voters: voters.iter().copied().collect(),
            learners: BTreeSet::new(),
            ready: voters.iter().copied().collect(),
            images: 0,
        };
        let groups = BTreeMap::from([(1, members.clone())]);
        let view = View { metadata: &metadata, nodes: &BTreeMap::new(), groups: &groups, may_transfer: true };
        (begin(&view), move_step::next(&view, &group, &members))
    }

    #[test]
    fn a_move_that_is_through_is_begun_and_ended() {
        assert_eq!(next(&[1, 2, 3], None), (None, None));
        let reason = MoveReason::Spread;
        assert_eq!(next(&[1, 2, 5], None), (Some(Step::Begin { group: 1, from: 3, to: 5, reason }), None));
        let current = ReplicaMove { from_node_id: 3, to_node_id: 5, ..ReplicaMove::default() };
        assert_eq!(next(&[1, 2, 5], Some(current)), (None, Some(Step::End { group: 1, to: 5, done: true })));
        assert_eq!(next(&[1, 2, 9], None), (None, None), "of whom the map knows nothing");
    }
}
