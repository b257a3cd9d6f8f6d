//! What there is, and how it goes on by itself.

use std::collections::{BTreeMap, BTreeSet};

use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::metadata_outcome::Outcome;
use omma_proto::internal::v1::{EndSlotMove, FormCluster, Metadata, MetadataCommand, Node, SwitchSlots};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};

use super::model::{Model, SimNode};
use crate::images::slots::slot_set;
use crate::metadata::planner::{Step, concerns, first_placement, metadata_members};
use crate::metadata::state;

pub(super) struct World {
    pub(super) rng: StdRng,
    pub(super) metadata: Metadata,
    pub(super) index: u64,
    pub(super) nodes: BTreeMap<NodeId, SimNode>,
    pub(super) groups: BTreeMap<GroupId, Model>,
    /// How many slots went from one group to another.
    pub(super) slots_moved: usize,
    /// Steps that were sent and may arrive late, or again.
    pub(super) late: Vec<(Step, u64)>,
    pub(super) begun: usize,
    pub(super) next_node: NodeId,
    pub(super) replication: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let replication = *[1, 2, 3, 3, 3].choose(&mut rng).unwrap();
        let count = rng.random_range(replication.max(2)..=6) as u64;
        let (zones, groups) = (rng.random_range(1..=4u64), rng.random_range(1..=8));
        let nodes = (1..=count).map(|id| node(id, id % zones)).collect();
        Self::formed(rng, nodes, groups, replication)
    }

    pub(super) fn formed(rng: StdRng, nodes: Vec<Node>, groups: u32, replication: usize) -> Self {
        let placed = first_placement(&nodes, groups, replication as u32).unwrap();
        let mut models: BTreeMap<GroupId, Model> = placed
            .iter()
            .map(|g| (g.group_id, Model { voters: g.replicas.iter().copied().collect(), ..Model::default() }))
            .collect();
        let voters: BTreeSet<_> = metadata_members(&nodes).into_iter().collect();
        let learners = nodes.iter().map(|n| n.node_id).filter(|id| !voters.contains(id)).collect();
        models.insert(METADATA_GROUP, Model { voters, learners, ..Model::default() });
        let mut sim_nodes: BTreeMap<NodeId, SimNode> =
            nodes.iter().map(|n| (n.node_id, SimNode { up: true, ..SimNode::default() })).collect();
        for (id, model) in &mut models {
            model.copies = model.voters.iter().chain(&model.learners).map(|n| (*n, Model::FULL)).collect();
            model.voters.iter().filter(|_| *id != METADATA_GROUP).for_each(|n| {
                sim_nodes.get_mut(n).unwrap().held.insert(*id);
            });
        }
        let next_node = nodes.len() as u64 + 1;
        let form = FormCluster { cluster_id: "c".into(), nodes, groups: placed, encoder_space: None };
        let mut world = Self {
            rng,
            metadata: Metadata::default(),
            index: 0,
            nodes: sim_nodes,
            groups: models,
            slots_moved: 0,
            late: Vec::new(),
            begun: 0,
            next_node,
            replication,
        };
        assert!(world.command(Command::FormCluster(form)));
        world
    }

    /// Whether it was done.
    pub(super) fn command(&mut self, command: Command) -> bool {
        self.index += 1;
        let outcome = state::apply(&mut self.metadata, self.index, MetadataCommand { command: Some(command) });
        matches!(outcome.outcome, Some(Outcome::Done(_)))
    }

    pub(super) fn up(&self) -> BTreeSet<NodeId> {
        self.nodes.iter().filter(|(_, n)| n.up).map(|(id, _)| *id).collect()
    }

    /// Elections, copying, cleaning up.
    pub(super) fn live(&mut self) {
        let up = self.up();
        for node in self.nodes.values_mut() {
            node.silent = if node.up { 0 } else { node.silent + 1 };
        }
        let retired = self.metadata.retired_group_ids.clone();
        self.groups.retain(|id, _| !retired.contains(id));
        for node in self.nodes.values_mut().filter(|n| n.up) {
            node.held.retain(|id| !retired.contains(id));
        }
        for (id, model) in &mut self.groups {
            let fit = |n: &NodeId| up.contains(n) && model.copies.get(n) == Some(&Model::FULL);
            let quorum = model.has_quorum(&up);
            if !quorum || model.leader.is_none_or(|l| !fit(&l) || !model.voters.contains(&l)) {
                let candidates = model.voters.iter().copied().filter(fit);
                (model.leader, model.led_for) = (candidates.choose(&mut self.rng).filter(|_| quorum), 0);
            }
            model.led_for += 1;
            let placed = self.metadata.groups.iter().find(|g| g.group_id == *id);
            for n in &up {
                let member = model.voters.contains(n)
                    || model.learners.contains(n)
                    || model.old.as_ref().is_some_and(|o| o.contains(n));
                let concerned = placed.is_none_or(|g| concerns(g, *n));
                let node = self.nodes.get_mut(n).unwrap();
                if concerned && *id != METADATA_GROUP {
                    node.held.insert(*id);
                }
                if !concerned && !member && model.leader.is_some() && node.held.remove(id) {
                    model.copies.remove(n);
                }
                if member && concerned && model.leader.is_some() {
                    let copy = model.copies.entry(*n).or_default();
                    *copy = (*copy + 1).min(Model::FULL);
                }
            }
        }
    }

    /// As `node/slots.rs` does it: a move goes on where both groups have leaders, its end a while after its switch.
    pub(super) fn move_slots(&mut self) {
        for moving in self.metadata.slot_moves.clone() {
            let leads = |id: &GroupId| self.groups[id].leader.is_some();
            let both = leads(&moving.from_group_id) && leads(&moving.to_group_id);
            if self.metadata.moves_paused || !both || self.rng.random_bool(0.5) {
                continue;
            }
            let move_id = moving.move_id;
            let command = match moving.switched {
                false => Command::SwitchSlots(SwitchSlots { move_id, slots_index: self.index }),
                true => Command::EndSlotMove(EndSlotMove { move_id }),
            };
            self.slots_moved += if moving.switched { 0 } else { slot_set(&moving.slots).len() };
            assert!(self.command(command));
        }
    }
}

pub(super) fn node(node_id: NodeId, zone: u64) -> Node {
    Node { node_id, address: format!("n{node_id}"), zone: zone.to_string(), ..Node::default() }
}
