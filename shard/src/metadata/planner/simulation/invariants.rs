//! What must hold.

use std::collections::{BTreeMap, BTreeSet};

use omma_common::ids::{METADATA_GROUP, NodeId};
use omma_proto::internal::v1::DiskRoom;
use omma_proto::v1::NodeState;

use super::world::World;
use crate::images::slots::slot_set;
use crate::metadata::groups::wanted;
use crate::metadata::nodes::is_active;
use crate::metadata::planner::{MOST_MOVES, first};

impl World {
    /// What must hold at any time.
    pub(super) fn check(&self) {
        let mut owned: Vec<_> =
            self.metadata.groups.iter().flat_map(|g| g.slots.iter().map(|r| (r.first, r.last))).collect();
        owned.sort_unstable();
        let ends = owned.iter().map(|(_, last)| last + 1);
        let whole = std::iter::once(0).chain(ends).eq(owned.iter().map(|(first, _)| *first).chain([4096]));
        assert!(whole, "each slot has one owner: {owned:?}");
        let mut moving: Vec<_> =
            self.metadata.slot_moves.iter().flat_map(|m| [m.from_group_id, m.to_group_id]).collect();
        moving.sort_unstable();
        assert!(moving.windows(2).all(|w| w[0] != w[1]), "a group is in two moves: {moving:?}");
        for group in &self.metadata.groups {
            let model = &self.groups[&group.group_id];
            let distinct: BTreeSet<_> = group.replicas.iter().collect();
            assert_eq!(distinct.len(), self.replication, "{group:?}");
            assert_eq!(model.voters.len(), self.replication, "{model:?}");
            if let Some(moving) = &group.r#move {
                assert!(!group.replicas.contains(&moving.to_node_id) && group.replicas.contains(&moving.from_node_id));
            }
        }
        assert!(!self.groups[&METADATA_GROUP].voters.is_empty());
        assert!(self.metadata.groups.iter().filter(|g| g.r#move.is_some()).count() <= MOST_MOVES);
    }

    pub(super) fn active(&self) -> Vec<NodeId> {
        self.metadata.nodes.iter().filter(|n| is_active(n)).map(|n| n.node_id).collect()
    }

    /// After the storm.
    pub(super) fn in_order(&self) {
        let up = self.up();
        let usable: BTreeSet<NodeId> = self.active().into_iter().filter(|id| up.contains(id)).collect();
        let enough = usable.len() >= self.replication;
        let zone = |id: &NodeId| self.metadata.nodes.iter().find(|n| n.node_id == *id).unwrap().zone.clone();
        let zones: BTreeSet<_> = usable.iter().map(zone).collect();
        let mut load: BTreeMap<NodeId, usize> = usable.iter().map(|id| (*id, 0)).collect();
        for group in &self.metadata.groups {
            let model = &self.groups[&group.group_id];
            let replicas: BTreeSet<_> = group.replicas.iter().copied().collect();
            assert_eq!((&model.voters, &model.learners), (&replicas, &BTreeSet::new()));
            assert!(group.r#move.is_none());
            if enough {
                assert!(replicas.is_subset(&usable), "{group:?} on {usable:?}");
                assert_eq!(replicas.iter().map(zone).collect::<BTreeSet<_>>().len(), zones.len().min(self.replication));
                let room = |id: &NodeId| self.nodes[id].room;
                let (leader, ample) =
                    (model.leader.unwrap(), |id: &NodeId| [DiskRoom::Ample, DiskRoom::Unspecified].contains(&room(id)));
                assert!(room(&leader) != DiskRoom::None || !replicas.iter().any(ample), "{leader} leads {group:?}");
                let first = group.replicas.first().unwrap();
                assert!(leader == *first || !ample(first), "{leader} leads {group:?}");
            }
            replicas.iter().for_each(|r| *load.entry(*r).or_default() += 1);
            for (id, node) in self.nodes.iter().filter(|(_, n)| n.up) {
                assert_eq!(node.held.contains(&group.group_id), replicas.contains(id), "node {id}, {group:?}");
            }
        }
        if enough && zones.len() == 1 {
            assert!(load.values().max().unwrap() - load.values().min().unwrap() <= 1, "{load:?}");
        }
        if self.metadata.wanted_groups != 0 && (enough || self.metadata.groups.len() >= wanted(&self.metadata)) {
            assert_eq!(self.metadata.groups.len(), wanted(&self.metadata), "{usable:?}");
            let shares: Vec<_> = self.metadata.groups.iter().map(|g| slot_set(&g.slots).len()).collect();
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1, "{shares:?}");
        }
        let size = first::metadata_size(self.active().len());
        let voters = &self.groups[&METADATA_GROUP].voters;
        if usable.len() >= size {
            assert_eq!(voters.len(), size);
            assert!(voters.is_subset(&usable), "{voters:?} vote, {usable:?} live");
        }
        for node in &self.metadata.nodes {
            let done = node.state() != NodeState::Draining && node.state() != NodeState::Replaced;
            assert!(done || !enough || usable.len() < size, "{node:?} should be through");
        }
    }
}
