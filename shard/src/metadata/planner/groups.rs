//! How many groups there are, and which slots go from where to where: as few as possible, until each group that is to
//! stay owns as many as any other, give or take one, and the others none.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use omma_common::ids::GroupId;
use omma_common::slot::{SLOTS, SlotSet};
use omma_proto::internal::v1::{Group, Metadata, SlotRange};

use super::spread::place_new;
use super::{Step, View};
use crate::images::slots::{slot_ranges, slot_set};
use crate::metadata::groups::{moves_slots, wanted};
use crate::metadata::nodes::replication;

/// Moves of slots under way at a time.
const MOST_SLOT_MOVES: usize = 2;

/// The next steps. All but one kind at a time: each changes what the next is planned for.
pub(super) fn next(view: &View) -> Vec<Step> {
    let metadata = view.metadata;
    if metadata.moves_paused || metadata.wanted_groups == 0 {
        return Vec::new();
    }
    if metadata.groups.len() < wanted(metadata) {
        let replicas = place_new(view, replication(metadata));
        return replicas.map(|replicas| Step::AddGroup { replicas }).into_iter().collect();
    }
    let targets = targets(metadata);
    let idle = |g: &&Group| g.slots.is_empty() && targets.get(&g.group_id) == Some(&0);
    let done = metadata.groups.iter().filter(idle).find(|g| !moves_slots(metadata, g.group_id));
    if let Some(group) = done {
        return vec![Step::Retire { group: group.group_id }];
    }
    moves(view, &targets)
}

/// How many slots each group is to own. The groups with the lowest ids stay; the fuller ones keep one more.
fn targets(metadata: &Metadata) -> BTreeMap<GroupId, usize> {
    let mut staying: Vec<&Group> = metadata.groups.iter().collect();
    staying.sort_by_key(|g| g.group_id);
    let leaving = staying.split_off(wanted(metadata).min(staying.len()));
    staying.sort_by_key(|g| Reverse((owned_in_the_end(metadata, g), Reverse(g.group_id))));
    let (each, more) = (usize::from(SLOTS) / staying.len().max(1), usize::from(SLOTS) % staying.len().max(1));
    let stay = staying.iter().enumerate().map(|(at, g)| (g.group_id, each + usize::from(at < more)));
    stay.chain(leaving.iter().map(|g| (g.group_id, 0))).collect()
}

/// How many slots the group has when the moves under way are through.
fn owned_in_the_end(metadata: &Metadata, group: &Group) -> i64 {
    let moved = metadata.slot_moves.iter().filter(|m| !m.switched).map(|moving| match group.group_id {
        id if id == moving.from_group_id => -count(&moving.slots),
        id if id == moving.to_group_id => count(&moving.slots),
        _ => 0,
    });
    count(&group.slots) + moved.sum::<i64>()
}

fn count(slots: &[SlotRange]) -> i64 {
    slots.iter().map(|range| i64::from(range.last) - i64::from(range.first) + 1).sum()
}

/// Moves to begin: from the group with most slots too many to the one that lacks most. A group takes part in one at a
/// time.
fn moves(view: &View, targets: &BTreeMap<GroupId, usize>) -> Vec<Step> {
    let metadata = view.metadata;
    // A group that has no leader yet, or none that answers, would only keep the others waiting.
    let free = |g: &&Group| !moves_slots(metadata, g.group_id) && view.groups.contains_key(&g.group_id);
    let surplus = |g: &Group| count(&g.slots) - target(targets, g);
    let mut free: Vec<(i64, &Group)> = metadata.groups.iter().filter(free).map(|g| (surplus(g), g)).collect();
    free.sort_by_key(|(surplus, g)| (*surplus, g.group_id));
    let (mut steps, mut under_way) = (Vec::new(), metadata.slot_moves.len());
    while under_way < MOST_SLOT_MOVES
        && let [(lacking, to), .., (too_many, from)] = free[..]
        && lacking < 0
        && too_many > 0
    {
        let count = too_many.min(-lacking) as usize;
        // The last ones, so that ranges stay whole.
        let slots: SlotSet = slot_set(&from.slots).iter().rev().take(count).collect();
        steps.push(Step::MoveSlots { from: from.group_id, to: to.group_id, slots: slot_ranges(&slots) });
        free = free[1..free.len() - 1].to_vec();
        under_way += 1;
    }
    steps
}

fn target(targets: &BTreeMap<GroupId, usize>, group: &Group) -> i64 {
    targets.get(&group.group_id).map_or(0, |target| *target as i64)
}
