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
