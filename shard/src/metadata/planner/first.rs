//! Where the groups of a new cluster live.

use std::collections::BTreeMap;

use omma_common::ids::NodeId;
use omma_common::slot::SLOTS;
use omma_proto::internal::v1::{Group, Node, SlotRange};

use super::spread::{Placement, more_even_firsts};

/// A placement that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
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

/// Voters of the metadata group among `nodes` nodes: up to five, an odd number.
pub(super) fn metadata_size(nodes: usize) -> usize {
    if nodes >= 5 { 5 } else { (nodes.saturating_sub(1) | 1).min(nodes) }
}

/// The metadata group's first voters, spread over zones.
pub(crate) fn metadata_members(nodes: &[Node]) -> Vec<NodeId> {
    let mut order: Vec<&Node> = nodes.iter().collect();
    order.sort_by_key(|n| n.node_id);
    let mut chosen: Vec<&Node> = Vec::new();
    while chosen.len() < metadata_size(nodes.len()) && !order.is_empty() {
        let uses = |n: &Node| chosen.iter().filter(|c| c.zone == n.zone).count();
        let next = order.iter().enumerate().min_by_key(|(at, n)| (uses(n), *at)).map_or(0, |(at, _)| at);
        chosen.push(order.remove(next));
    }
    chosen.iter().map(|n| n.node_id).collect()
}

/// The first placement of `groups` shard groups with `replication` replicas each. Slots are split evenly; each
/// group's replicas are in as many zones as can be, and as many on each node as can be; first replicas, where
/// leadership should rest, go round the nodes.
pub(crate) fn first_placement(nodes: &[Node], groups: u32, replication: u32) -> Result<Vec<Group>, PlanError> {
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
    let mut placed: Vec<Group> = (0..groups)
        .map(|group| Group {
            group_id: group + 1,
            slots: vec![SlotRange { first: first_slot(group), last: first_slot(group + 1) - 1 }],
            ..Group::default()
        })
        .collect();
    place(nodes, &mut placed, replication as usize);
    Ok(placed)
}

fn place(nodes: &[Node], groups: &mut [Group], replication: usize) {
    let mut order: Vec<&Node> = nodes.iter().collect();
    order.sort_by_key(|n| n.node_id);
    let mut load: BTreeMap<NodeId, usize> = BTreeMap::new();
    for (turn, group) in groups.iter_mut().enumerate() {
        let turn = turn % order.len();
        let from_turn: Vec<&Node> = order[turn..].iter().chain(&order[..turn]).copied().collect();
        let mut chosen: Vec<&Node> = Vec::new();
        while chosen.len() < replication {
            let left = from_turn.iter().filter(|n| chosen.iter().all(|c| c.node_id != n.node_id));
            let uses = |n: &Node| chosen.iter().filter(|c| c.zone == n.zone).count();
            let has = |n: &Node| if chosen.is_empty() { 0 } else { load.get(&n.node_id).copied().unwrap_or(0) };
            let Some(next) = left.min_by_key(|n| (uses(n), has(n))) else { break };
            chosen.push(next);
        }
        chosen.iter().for_each(|n| *load.entry(n.node_id).or_default() += 1);
        group.replicas = chosen.iter().map(|n| n.node_id).collect();
    }
    // What the planner would change later is better right from the beginning.
    while let Some((id, from, to)) = Placement::among(nodes, groups).better(|_| true) {
        let moved = groups.iter_mut().filter(|g| g.group_id == id).flat_map(|g| &mut g.replicas);
        moved.filter(|r| **r == from).for_each(|r| *r = to);
    }
    while let Some((id, first)) = more_even_firsts(groups, |_| true) {
        for group in groups.iter_mut().filter(|g| g.group_id == id) {
            group.replicas.sort_by_key(|r| *r != first);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn nodes(zones: &[u8]) -> Vec<Node> {
        (1..).zip(zones).map(|(node_id, z)| Node { node_id, zone: z.to_string(), ..Node::default() }).collect()
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
