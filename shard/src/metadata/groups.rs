//! How many shard groups there are, and which slots each owns: pure. Commands name the epoch that they were planned for,
//! or the move that they belong to, so that one that comes late, or twice, has no effect.

use std::collections::BTreeSet;

use omma_common::ids::GroupId;
use omma_common::slot::{SLOTS, SlotSet};
use omma_proto::internal::v1::{
    AddGroup, BeginSlotMove, Group, Metadata, MetadataRefusal, RetireGroup, SetGroups, SlotMove, SwitchSlots,
};

use super::nodes::replication;
use crate::images::slots::{slot_ranges, slot_set};

/// Whether a command changed anything.
type Changed = Result<bool, MetadataRefusal>;

/// Retired groups that are remembered.
const MOST_RETIRED: usize = 10_000;

pub(super) fn set(metadata: &mut Metadata, set: &SetGroups) -> Changed {
    if set.groups == 0 || set.groups > u32::from(SLOTS) {
        return Err(MetadataRefusal::Invalid);
    }
    Ok(std::mem::replace(&mut metadata.wanted_groups, set.groups) != set.groups)
}

/// How many groups there are to be.
pub(crate) fn wanted(metadata: &Metadata) -> usize {
    match metadata.wanted_groups {
        0 => metadata.groups.len(),
        wanted => wanted as usize,
    }
}

/// Whether the group takes part in a move of slots.
pub(crate) fn moves_slots(metadata: &Metadata, group: GroupId) -> bool {
    metadata.slot_moves.iter().any(|m| m.from_group_id == group || m.to_group_id == group)
}

fn check_epoch(metadata: &Metadata, epoch: u64) -> Result<(), MetadataRefusal> {
    if metadata.epoch == epoch { Ok(()) } else { Err(MetadataRefusal::StaleEpoch) }
}

pub(super) fn add(metadata: &mut Metadata, add: AddGroup) -> Changed {
    check_epoch(metadata, add.epoch)?;
    let distinct: BTreeSet<_> = add.replicas.iter().collect();
    let known = |id: &&u64| metadata.nodes.iter().any(|n| n.node_id == **id);
    let sound = distinct.len() == replication(metadata) && distinct.len() == add.replicas.len();
    if !sound || !distinct.iter().all(known) {
        return Err(MetadataRefusal::Invalid);
    }
    let highest = metadata.groups.iter().map(|g| g.group_id).max().unwrap_or(0).max(metadata.last_group_id);
    let group_id = highest + 1;
    metadata.last_group_id = group_id;
    metadata.groups.push(Group { group_id, replicas: add.replicas, ..Group::default() });
    metadata.epoch += 1;
    Ok(true)
}

fn group(metadata: &mut Metadata, id: GroupId) -> Result<&mut Group, MetadataRefusal> {
    metadata.groups.iter_mut().find(|g| g.group_id == id).ok_or(MetadataRefusal::Invalid)
}

pub(super) fn begin_move(metadata: &mut Metadata, begin: BeginSlotMove) -> Changed {
    check_epoch(metadata, begin.epoch)?;
    let BeginSlotMove { from_group_id, to_group_id, slots, begin_time, .. } = begin;
    group(metadata, to_group_id)?;
    let (moving, owned) = (slot_set(&slots), slot_set(&group(metadata, from_group_id)?.slots));
    let free =
        from_group_id != to_group_id && [from_group_id, to_group_id].iter().all(|id| !moves_slots(metadata, *id));
    if !free || moving.is_empty() || !moving.is_subset(&owned) {
        return Err(MetadataRefusal::Invalid);
    }
    metadata.last_move_id += 1;
    metadata.slot_moves.push(SlotMove {
        move_id: metadata.last_move_id,
        from_group_id,
        to_group_id,
        slots,
        switched: false,
        begin_time,
    });
    metadata.epoch += 1;
    Ok(true)
}

/// The map gives the slots to the new group.
pub(super) fn switch(metadata: &mut Metadata, switch: &SwitchSlots) -> Changed {
    let moving = metadata.slot_moves.iter_mut().find(|m| m.move_id == switch.move_id);
    let moving = moving.ok_or(MetadataRefusal::Invalid)?;
    if std::mem::replace(&mut moving.switched, true) {
        return Ok(false);
    }
    let (from, to, slots) = (moving.from_group_id, moving.to_group_id, slot_set(&moving.slots));
    let source = group(metadata, from)?;
    let kept: SlotSet = slot_set(&source.slots).iter().filter(|slot| !slots.contains(*slot)).collect();
    source.slots = slot_ranges(&kept);
    let target = group(metadata, to)?;
    let all: SlotSet = slot_set(&target.slots).iter().chain(slots.iter()).collect();
    target.slots = slot_ranges(&all);
    target.slots_index = switch.slots_index;
    metadata.epoch += 1;
    Ok(true)
}

/// A move is over. One that was not switched is not.
pub(super) fn end_move(metadata: &mut Metadata, move_id: u64) -> Changed {
    let at = metadata.slot_moves.iter().position(|m| m.move_id == move_id && m.switched);
    metadata.slot_moves.remove(at.ok_or(MetadataRefusal::Invalid)?);
    metadata.epoch += 1;
    Ok(true)
}

/// Takes a group out that owns nothing.
pub(super) fn retire(metadata: &mut Metadata, retire: &RetireGroup) -> Changed {
    check_epoch(metadata, retire.epoch)?;
    let at = metadata.groups.iter().position(|g| g.group_id == retire.group_id);
    let at = at.ok_or(MetadataRefusal::Invalid)?;
    let empty = metadata.groups[at].slots.is_empty() && !moves_slots(metadata, retire.group_id);
    if !empty || metadata.groups.len() == 1 {
        return Err(MetadataRefusal::Invalid);
    }
    let highest = metadata.groups.iter().map(|g| g.group_id).max().unwrap_or(0);
    metadata.last_group_id = metadata.last_group_id.max(highest);
    metadata.groups.remove(at);
    metadata.retired_group_ids.push(retire.group_id);
    let surplus = metadata.retired_group_ids.len().saturating_sub(MOST_RETIRED);
    metadata.retired_group_ids.drain(..surplus);
    metadata.epoch += 1;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::{Node, SlotRange};

    fn cluster() -> Metadata {
        let nodes = (1..=3).map(|node_id| Node { node_id, ..Node::default() }).collect();
        let slots = vec![SlotRange { first: 0, last: 4095 }];
        let group = Group { group_id: 1, replicas: vec![1, 2, 3], slots, ..Group::default() };
        Metadata { nodes, groups: vec![group], epoch: 5, ..Metadata::default() }
    }

    fn begin(m: &mut Metadata, from: u32, to: u32, first: u32, last: u32) -> Changed {
        let (slots, epoch) = (vec![SlotRange { first, last }], m.epoch);
        begin_move(m, BeginSlotMove { from_group_id: from, to_group_id: to, slots, begin_time: None, epoch })
    }

    #[test]
    fn slots_go_from_group_to_group() {
        let mut m = cluster();
        assert_eq!(add(&mut m, AddGroup { replicas: vec![1, 2], epoch: 5 }), Err(MetadataRefusal::Invalid));
        assert_eq!(add(&mut m, AddGroup { replicas: vec![1, 2, 9], epoch: 5 }), Err(MetadataRefusal::Invalid));
        assert_eq!(add(&mut m, AddGroup { replicas: vec![1, 2, 3], epoch: 4 }), Err(MetadataRefusal::StaleEpoch));
        assert_eq!(add(&mut m, AddGroup { replicas: vec![3, 1, 2], epoch: 5 }), Ok(true));
        assert_eq!(begin(&mut m, 1, 2, 100, 4096), Ok(true), "what is no slot is no matter");
        assert_eq!(begin(&mut m, 1, 2, 0, 9), Err(MetadataRefusal::Invalid), "one at a time");
        assert_eq!(end_move(&mut m, 1), Err(MetadataRefusal::Invalid), "not switched");
        assert_eq!(switch(&mut m, &SwitchSlots { move_id: 1, slots_index: 40 }), Ok(true));
        assert_eq!(switch(&mut m, &SwitchSlots { move_id: 1, slots_index: 41 }), Ok(false));
        assert_eq!(m.groups[0].slots, [SlotRange { first: 0, last: 99 }]);
        assert_eq!(
            (m.groups[1].slots.as_slice(), m.groups[1].slots_index),
            (&[SlotRange { first: 100, last: 4095 }][..], 40)
        );
        let retire_1 = |m: &mut Metadata| retire(m, &RetireGroup { group_id: 1, epoch: m.epoch });
        assert_eq!((end_move(&mut m, 1), retire_1(&mut m)), (Ok(true), Err(MetadataRefusal::Invalid)));
        assert_eq!(begin(&mut m, 1, 2, 90, 100), Err(MetadataRefusal::Invalid), "100 is not its own");
        assert_eq!(begin(&mut m, 1, 2, 0, 99), Ok(true));
        switch(&mut m, &SwitchSlots { move_id: 2, slots_index: 50 }).unwrap();
        assert_eq!(retire_1(&mut m), Err(MetadataRefusal::Invalid), "still being cleared");
        end_move(&mut m, 2).unwrap();
        assert_eq!((retire_1(&mut m), m.groups.len(), m.retired_group_ids.as_slice()), (Ok(true), 1, &[1][..]));
        let epoch = m.epoch;
        add(&mut m, AddGroup { replicas: vec![3, 1, 2], epoch }).unwrap();
        assert_eq!(m.groups[1].group_id, 3, "no id is used again");
    }
}
