//! Where groups live: pure, state in, placement out.

use std::collections::BTreeSet;

use omma_common::ids::NodeId;
use omma_common::slot::SLOTS;
use omma_proto::internal::v1::{Group, Node, SlotRange};

/// A placement that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Too few nodes.
    #[error("replication {replication} needs as many nodes, and there are {nodes}")]
    TooFewNodes {
        /// Wanted.
        replication: u32,
        /// There.
        nodes: usize,
    },
    /// Zero, or more than slots.
    #[error("{0} shard groups cannot be: 1 to 4096 can")]
    Groups(u32),
    /// Zero.
    #[error("replication must be at least 1")]
    NoReplication,
}

/// Members of the metadata group: up to five, an odd number, spread over zones.
pub fn metadata_members(nodes: &[Node]) -> Vec<NodeId> {
    let wanted = if nodes.len() >= 5 { 5 } else { (nodes.len().saturating_sub(1) | 1).min(nodes.len()) };
    spread(nodes, 0, wanted)
}

/// The first placement of `groups` shard groups with `replication` replicas each. Slots are split evenly; each
/// group's replicas are in as many zones as can be; first replicas, where leadership should rest, go round the nodes.
pub fn first_placement(nodes: &[Node], groups: u32, replication: u32) -> Result<Vec<Group>, PlanError> {
    if groups == 0 || groups > u32::from(SLOTS) {
        return Err(PlanError::Groups(groups));
    }
    if replication == 0 {
        return Err(PlanError::NoReplication);
    }
    if (replication as usize) > nodes.len() {
        return Err(PlanError::TooFewNodes { replication, nodes: nodes.len() });
    }
    let slots = u32::from(SLOTS);
    let first_slot = |group: u32| group * slots / groups;
    Ok((0..groups)
        .map(|group| Group {
            group_id: group + 1,
            slots: vec![SlotRange { first: first_slot(group), last: first_slot(group + 1) - 1 }],
            replicas: spread(nodes, group as usize, replication as usize),
        })
        .collect())
}

/// `count` nodes, beginning at the `turn`-th in the order of ids, from as many different zones as there are.
fn spread(nodes: &[Node], turn: usize, count: usize) -> Vec<NodeId> {
    let mut order: Vec<&Node> = nodes.iter().collect();
    order.sort_by_key(|n| n.node_id);
    if !order.is_empty() {
        let len = order.len();
        order.rotate_left(turn % len);
    }
    let mut chosen = Vec::with_capacity(count);
    while chosen.len() < count && !order.is_empty() {
        // One round takes one node of each zone that is left.
        let mut zones = BTreeSet::new();
        order.retain(|node| {
            let take = chosen.len() < count && zones.insert(node.zone.clone());
            if take {
                chosen.push(node.node_id);
            }
            !take
        });
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn nodes(zones: &[u8]) -> Vec<Node> {
        (1..).zip(zones).map(|(node_id, z)| Node { node_id, address: String::new(), zone: z.to_string() }).collect()
    }

    proptest! {
        #[test]
        fn every_slot_has_one_group_and_every_group_different_nodes(
            zones in prop::collection::vec(0u8..4, 1..8), groups in 1u32..20, replication in 1u32..5,
        ) {
            let nodes = nodes(&zones);
            let plan = first_placement(&nodes, groups, replication);
            if replication as usize > nodes.len() {
                let refused = matches!(plan, Err(PlanError::TooFewNodes { .. }));
                prop_assert!(refused);
                return Ok(());
            }
            let plan = plan.unwrap();
            let mut next = 0;
            for group in &plan {
                prop_assert_eq!(group.slots[0].first, next);
                next = group.slots[0].last + 1;
                let distinct: BTreeSet<_> = group.replicas.iter().collect();
                prop_assert_eq!(distinct.len(), replication as usize);
                let zone = |id: &u64| zones[*id as usize - 1];
                let used: BTreeSet<_> = group.replicas.iter().map(zone).collect();
                let there: BTreeSet<_> = zones.iter().collect();
                prop_assert_eq!(used.len(), there.len().min(replication as usize));
            }
            prop_assert_eq!(next, u32::from(SLOTS));
        }

        #[test]
        fn metadata_members_are_odd(zones in prop::collection::vec(0u8..3, 1..9)) {
            let members = metadata_members(&nodes(&zones));
            prop_assert!(members.len() % 2 == 1 && members.len() <= 5);
        }
    }

    #[test]
    fn leaders_go_round() {
        let plan = first_placement(&nodes(&[0, 0, 0]), 3, 3).unwrap();
        assert_eq!(plan.iter().map(|g| g.replicas[0]).collect::<Vec<_>>(), [1, 2, 3]);
    }
}
