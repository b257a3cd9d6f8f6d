//! What befalls nodes.

use std::collections::BTreeSet;

use omma_common::ids::NodeId;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::{DiskRoom, Node, PutNode, SetGroups, SetMovesPaused, SetNodeState};
use omma_proto::v1::NodeState;
use rand::Rng;
use rand::seq::{IndexedRandom, IteratorRandom};

use super::model::{Model, SimNode};
use super::world::{World, node};
use crate::metadata::planner::Step;

impl World {
    /// Whether every group keeps its majority without `lost`, with nothing else amiss.
    pub(super) fn can_lose(&self, lost: NodeId) -> bool {
        // A step on its way may make it a voter, of one group the only one.
        let chosen = |(step, _): &(Step, u64)| matches!(step, Step::SetVoters { voters, .. } if voters.contains(&lost));
        if self.late.iter().any(chosen) {
            return false;
        }
        let mut up = self.up();
        up.remove(&lost);
        let gone: BTreeSet<_> = self.nodes.iter().filter(|(_, n)| n.dead).map(|(id, _)| *id).collect();
        let intact = |m: &Model| {
            let all =
                |set: &BTreeSet<NodeId>| set.iter().all(|v| !gone.contains(v) && m.copies.get(v) == Some(&Model::FULL));
            all(&m.voters) && m.old.is_none() && m.has_quorum(&up)
        };
        self.groups.values().all(intact)
    }

    pub(super) fn harm(&mut self) {
        let ids: Vec<NodeId> = self.nodes.iter().filter(|(_, n)| !n.dead).map(|(id, _)| *id).collect();
        let Some(id) = ids.choose(&mut self.rng).copied() else { return };
        match self.rng.random_range(0..19) {
            17 | 18 => {
                let room = [DiskRoom::None, DiskRoom::None, DiskRoom::Little, DiskRoom::Ample];
                self.nodes.get_mut(&id).unwrap().room = *room.choose(&mut self.rng).unwrap();
            }
            16 => {
                let groups = self.rng.random_range(1..=9);
                assert!(self.command(Command::SetGroups(SetGroups { groups })));
            }
            0..3 => self.nodes.get_mut(&id).unwrap().up = false,
            3..8 => {
                let down: Vec<_> = self.nodes.iter_mut().filter(|(_, n)| !n.dead && !n.up).collect();
                down.into_iter().for_each(|(_, n)| n.up = true);
            }
            8 if self.nodes.len() < 9 => self.join(None),
            9 if self.can_lose(id) => {
                // Its disk is wiped: it comes back as a new node at the same address.
                self.die(id);
                let old = self.metadata.nodes.iter().find(|n| n.node_id == id).cloned();
                self.join(old);
            }
            10 if self.can_lose(id) => self.die(id),
            11 | 12 => {
                let (node_id, state) = (id, NodeState::Draining.into());
                self.command(Command::SetNodeState(SetNodeState { node_id, state }));
            }
            13 => {
                let (node_id, state) = (id, NodeState::Active.into());
                self.command(Command::SetNodeState(SetNodeState { node_id, state }));
            }
            14 => {
                let paused = self.rng.random_bool(0.3);
                self.command(Command::SetMovesPaused(SetMovesPaused { paused }));
            }
            _ => {
                let model = self.groups.values_mut().choose(&mut self.rng).unwrap();
                model.leader = None;
            }
        }
    }

    pub(super) fn die(&mut self, id: NodeId) {
        *self.nodes.get_mut(&id).unwrap() = SimNode { dead: true, ..SimNode::default() };
        for model in self.groups.values_mut() {
            model.copies.remove(&id);
        }
    }

    pub(super) fn join(&mut self, instead_of: Option<Node>) {
        let id = self.next_node;
        self.next_node += 1;
        let zone = self.rng.random_range(0..3);
        let node = match instead_of {
            Some(old) => Node { node_id: id, address: old.address, zone: old.zone, ..Node::default() },
            None => node(id, zone),
        };
        self.nodes.insert(id, SimNode { up: true, ..SimNode::default() });
        assert!(self.command(Command::PutNode(PutNode { node: Some(node) })));
    }
}
