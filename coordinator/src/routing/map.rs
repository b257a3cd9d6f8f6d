//! The cluster map: slots → groups → replicas → addresses, and the collections. Pure, built from the metadata.

use std::collections::BTreeMap;
use std::sync::Arc;

use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_common::slot::{SLOTS, slot_of};
use omma_proto::internal::v1::{Metadata, ReplicaMove, SlotMove, SlotRange, Target};
use omma_proto::v1::{NodeState, VectorSpace};

/// Why metadata is no cluster map.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidMap {
    /// There is no cluster yet.
    #[error("the cluster is not formed yet")]
    NotFormed,
    /// A slot range that is none.
    #[error("group {group} owns slots {first} to {last}, of {SLOTS}")]
    Range {
        /// Whose.
        group: GroupId,
        /// First slot.
        first: u32,
        /// Last slot.
        last: u32,
    },
    /// Two owners.
    #[error("slot {slot} belongs to the groups {one} and {other}")]
    OwnedTwice {
        /// Which.
        slot: u32,
        /// An owner.
        one: GroupId,
        /// Another.
        other: GroupId,
    },
    /// No owner.
    #[error("slot {0} belongs to no group")]
    Unowned(usize),
    /// A replica on a node that is not in the map.
    #[error("group {group} has a replica on node {node}, which is not known")]
    UnknownNode {
        /// The group.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// Nobody holds the group.
    #[error("group {0} has no replicas")]
    NoReplicas(GroupId),
}

/// A shard node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) address: String,
    pub(crate) zone: String,
    pub(crate) state: NodeState,
}

/// A shard group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) replicas: Vec<NodeId>,
    pub(crate) slot_count: u32,
    /// Slots that it owns; none while they are still to come, or have gone.
    pub(crate) slots: Vec<SlotRange>,
    /// Log index from which on a replica knows that it owns them.
    pub(crate) slots_index: u64,
    /// A replica on its way to a node that is not among the replicas yet.
    pub(crate) moving: Option<ReplicaMove>,
}

/// A collection: what requests need to know of it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Collection {
    pub(crate) entry: omma_proto::v1::Collection,
    pub(crate) deleting: bool,
}

impl Collection {
    /// Its vector space's dimension.
    pub(crate) fn dimension(&self) -> usize {
        self.entry.vector_space.as_ref().map_or(0, |s| s.dimension as usize)
    }

    /// Its vector space's id.
    pub(crate) fn space_id(&self) -> &str {
        self.entry.vector_space.as_ref().map_or("", |s| s.id.as_str())
    }

    /// This collection in one group, for a request to a shard node by that map.
    pub(crate) fn target(&self, group: GroupId, map: &ClusterMap) -> Target {
        Target {
            slots_index: map.groups.get(&group).map_or(0, |g| g.slots_index),
            group_id: group,
            collection_uid: self.entry.uid,
            dimension: self.dimension() as u32,
            vector_space_id: self.space_id().to_owned(),
            epoch: map.epoch,
            quantization: self.entry.quantization,
        }
    }
}

/// The cluster, at one metadata version.
#[derive(Debug, Clone)]
pub(crate) struct ClusterMap {
    pub(crate) version: u64,
    pub(crate) epoch: u64,
    pub(crate) cluster_id: String,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) groups: BTreeMap<GroupId, Group>,
    pub(crate) collections: BTreeMap<String, Arc<Collection>>,
    pub(crate) encoder_space: Option<VectorSpace>,
    pub(crate) moves_paused: bool,
    pub(crate) slot_moves: Vec<SlotMove>,
    /// Of the latest move of slots.
    pub(crate) last_move_id: u64,
    /// Shard groups that there are to be.
    pub(crate) wanted_groups: u32,
    slots: Box<[GroupId]>,
    everyone: Vec<NodeId>,
}

impl ClusterMap {
    /// Builds and checks the map: every slot has one owner, every replica an address.
    pub(crate) fn from_metadata(metadata: Metadata) -> Result<Self, InvalidMap> {
        if metadata.cluster_id.is_empty() {
            return Err(InvalidMap::NotFormed);
        }
        let nodes: BTreeMap<_, _> = metadata.nodes.into_iter().map(|n| (n.node_id, node(n))).collect();
        let mut slots = vec![METADATA_GROUP; SLOTS as usize].into_boxed_slice();
        let mut groups = BTreeMap::new();
        for group in metadata.groups.into_iter().filter(|g| g.group_id != METADATA_GROUP) {
            let id = group.group_id;
            if group.replicas.is_empty() {
                return Err(InvalidMap::NoReplicas(id));
            }
            if let Some(&node) = group.replicas.iter().find(|r| !nodes.contains_key(r)) {
                return Err(InvalidMap::UnknownNode { group: id, node });
            }
            let mut slot_count = 0;
            for range in &group.slots {
                slot_count += claim(&mut slots, id, range.first, range.last)?;
            }
            let placed = Group {
                replicas: group.replicas,
                slot_count,
                slots: group.slots,
                slots_index: group.slots_index,
                moving: group.r#move,
            };
            groups.insert(id, placed);
        }
        if let Some(slot) = slots.iter().position(|g| *g == METADATA_GROUP) {
            return Err(InvalidMap::Unowned(slot));
        }
        let collections = metadata
            .collections
            .into_iter()
            .filter_map(|c| {
                let entry = c.collection?;
                Some((entry.name.clone(), Arc::new(Collection { entry, deleting: c.deleting })))
            })
            .collect();
        Ok(Self {
            version: metadata.version,
            epoch: metadata.epoch,
            cluster_id: metadata.cluster_id,
            everyone: nodes.keys().copied().collect(),
            nodes,
            collections,
            encoder_space: metadata.encoder_space.filter(|s| !s.id.is_empty()),
            moves_paused: metadata.moves_paused,
            slot_moves: metadata.slot_moves,
            last_move_id: metadata.last_move_id,
            wanted_groups: match metadata.wanted_groups {
                0 => groups.len() as u32,
                wanted => wanted,
            },
            groups,
            slots,
        })
    }

    /// The group that owns the slot of an image id.
    pub(crate) fn group_of(&self, image_id: &str) -> GroupId {
        self.slots[slot_of(image_id) as usize]
    }

    /// Whether there is such a group: one that was retired is served by nobody.
    pub(crate) fn has(&self, group: GroupId) -> bool {
        group == METADATA_GROUP || self.groups.contains_key(&group)
    }

    /// Node ids of a group's replicas. Every node holds the metadata group.
    pub(crate) fn replicas(&self, group: GroupId) -> &[NodeId] {
        match group {
            METADATA_GROUP => &self.everyone,
            _ => self.groups.get(&group).map_or(&[], |g| g.replicas.as_slice()),
        }
    }

    /// Replicas of shard groups that are on a node, or on their way to it.
    pub(crate) fn replica_count(&self, node: NodeId) -> u32 {
        let coming = |g: &Group| g.moving.as_ref().is_some_and(|m| m.to_node_id == node);
        self.groups.values().filter(|g| g.replicas.contains(&node) || coming(g)).count() as u32
    }

    /// The node of that id in decimal, or else at that address.
    pub(crate) fn find(&self, node: &str) -> Option<NodeId> {
        let by_id = node.parse().ok().filter(|id| self.nodes.contains_key(id));
        by_id.or_else(|| {
            let at = |n: &Node| n.address == node && n.state != NodeState::Replaced;
            self.nodes.iter().find(|(_, n)| at(n)).map(|(id, _)| *id)
        })
    }

    /// Where a node is reached.
    pub(crate) fn address(&self, node: NodeId) -> Option<&str> {
        self.nodes.get(&node).map(|n| n.address.as_str())
    }

    /// A collection that is not being deleted.
    pub(crate) fn collection(&self, name: &str) -> Option<&Arc<Collection>> {
        self.collections.get(name).filter(|c| !c.deleting)
    }
}

fn node(stored: omma_proto::internal::v1::Node) -> Node {
    let state = match stored.state() {
        NodeState::Unspecified => NodeState::Active,
        state => state,
    };
    Node { address: stored.address, zone: stored.zone, state }
}

/// Gives slots `first` to `last` to `group`; returns how many.
fn claim(slots: &mut [GroupId], group: GroupId, first: u32, last: u32) -> Result<u32, InvalidMap> {
    if first > last || last >= u32::from(SLOTS) {
        return Err(InvalidMap::Range { group, first, last });
    }
    for slot in first..=last {
        let owner = &mut slots[slot as usize];
        if *owner != METADATA_GROUP {
            return Err(InvalidMap::OwnedTwice { slot, one: *owner, other: group });
        }
        *owner = group;
    }
    Ok(last - first + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1 as node;
    use proptest::prelude::*;

    /// Groups 1.. that own the ranges between `cuts`, on nodes 1 to 3.
    fn metadata(cuts: &[u32]) -> Metadata {
        let mut edges: Vec<u32> = cuts.to_vec();
        edges.extend([0, u32::from(SLOTS)]);
        edges.sort_unstable();
        edges.dedup();
        let groups = edges.windows(2).zip(1..).map(|(w, id)| node::Group {
            group_id: id,
            slots: vec![node::SlotRange { first: w[0], last: w[1] - 1 }],
            replicas: vec![1, 2, 3],
            ..Default::default()
        });
        let nodes = (1..=3).map(|id| node::Node { node_id: id, address: format!("n{id}:1"), ..Default::default() });
        Metadata {
            version: 7,
            cluster_id: "c".into(),
            epoch: 3,
            nodes: nodes.collect(),
            groups: groups.collect(),
            ..Default::default()
        }
    }

    proptest! {
        #[test]
        fn every_id_belongs_to_the_group_that_owns_its_slot(cuts in prop::collection::vec(1u32..4096, 0..8), id in ".{1,40}") {
            let metadata = metadata(&cuts);
            let map = ClusterMap::from_metadata(metadata.clone()).unwrap();
            let slot = u32::from(slot_of(&id));
            let owner = metadata.groups.iter().find(|g| g.slots.iter().any(|r| r.first <= slot && slot <= r.last)).unwrap();
            prop_assert_eq!(map.group_of(&id), owner.group_id);
            prop_assert_eq!(map.groups.values().map(|g| g.slot_count).sum::<u32>(), u32::from(SLOTS));
        }
    }

    #[test]
    fn broken_maps_are_refused() {
        let broken = |change: fn(&mut Metadata)| {
            let mut m = metadata(&[2000]);
            change(&mut m);
            ClusterMap::from_metadata(m).unwrap_err()
        };
        assert_eq!(broken(|m| m.cluster_id.clear()), InvalidMap::NotFormed);
        assert_eq!(broken(|m| m.groups[0].slots[0].last = 1998), InvalidMap::Unowned(1999));
        let twice = InvalidMap::OwnedTwice { slot: 2000, one: 1, other: 2 };
        assert_eq!(broken(|m| m.groups[0].slots[0].last = 2000), twice);
        let range = InvalidMap::Range { group: 2, first: 2000, last: 4096 };
        assert_eq!(broken(|m| m.groups[1].slots[0].last = 4096), range);
        assert_eq!(broken(|m| m.groups[1].replicas[2] = 9), InvalidMap::UnknownNode { group: 2, node: 9 });
        assert_eq!(broken(|m| m.groups[1].replicas.clear()), InvalidMap::NoReplicas(2));
        assert_eq!(broken(|m| m.groups.clear()), InvalidMap::Unowned(0));
    }

    #[test]
    fn the_metadata_group_lives_on_every_node() {
        let map = ClusterMap::from_metadata(metadata(&[])).unwrap();
        assert_eq!(map.replicas(METADATA_GROUP), [1, 2, 3]);
        assert_eq!(map.replicas(1), [1, 2, 3]);
        assert!(map.replicas(8).is_empty());
        assert_eq!((map.address(2), map.address(8)), (Some("n2:1"), None));
    }

    #[test]
    fn collections_being_deleted_are_not_shown() {
        let mut m = metadata(&[]);
        for (name, deleting) in [("a", false), ("b", true)] {
            let collection = omma_proto::v1::Collection { name: name.into(), uid: 1, ..Default::default() };
            m.collections.push(node::CollectionEntry { collection: Some(collection), deleting, ..Default::default() });
        }
        let map = ClusterMap::from_metadata(m).unwrap();
        assert!(map.collection("a").is_some());
        assert!(map.collection("b").is_none());
        assert!(map.collections.contains_key("b"));
    }
}
