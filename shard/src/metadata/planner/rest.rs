//! Where leadership is: where it should rest, unless the disk there is nearly full.

use omma_common::ids::{METADATA_GROUP, NodeId};
use omma_proto::internal::v1::{DiskRoom, Group};

use super::{GroupView, Step, View};

/// Leadership goes back to where it should rest, one group at a time.
pub(super) fn back(view: &View) -> Option<Step> {
    let back = |group: &Group| {
        let members = view.groups.get(&group.group_id)?;
        let to = *group.replicas.first()?;
        let needed = members.leader != to && members.settled;
        (needed && may_lead(view, group, members, to)).then(|| transfer(group, members, to))
    };
    view.metadata.groups.iter().filter(|_| view.may_transfer).find_map(back)
}

/// A leader whose disk is nearly full refuses images. A member that has room takes over, of several the one that leads
/// least, one group at a time.
pub(super) fn relieve(view: &View) -> Option<Step> {
    let led = |node: NodeId| {
        view.groups.iter().filter(|(id, members)| **id != METADATA_GROUP && members.leader == node).count()
    };
    let relieved = |group: &Group| {
        let members = view.groups.get(&group.group_id)?;
        if view.room(members.leader) != DiskRoom::None {
            return None;
        }
        let able = group.replicas.iter().copied().filter(|to| may_lead(view, group, members, *to));
        able.min_by_key(|to| led(*to)).map(|to| transfer(group, members, to))
    };
    view.metadata.groups.iter().filter(|_| view.may_transfer).find_map(relieved)
}

fn may_lead(view: &View, group: &Group, members: &GroupView, to: NodeId) -> bool {
    let steady = group.r#move.is_none() && members.committed && !members.joint;
    let able = view.usable(to) && members.ready.contains(&to) && members.voters.contains(&to);
    steady && able && view.room(to) == DiskRoom::Ample
}

fn transfer(group: &Group, members: &GroupView, to: NodeId) -> Step {
    Step::Transfer { group: group.group_id, to, members_index: members.members_index }
}
