//! Planner, metadata state machine and a model of groups and nodes, driven by one seed: nodes die, come back, lose
//! their disks, join, are drained, run out of room; whoever drives dies between any two steps; steps are lost, late and
//! repeated.
//!
//! `OMMA_SIM_SEED=SEED` repeats one run, `OMMA_SIM_RUNS=N` runs so many.

use std::collections::{BTreeMap, BTreeSet};

use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::metadata_outcome::Outcome;
use omma_proto::internal::v1::{
    EndSlotMove, FormCluster, MetadataCommand, Node, PutNode, SetGroups, SetMovesPaused, SetNodeState, SwitchSlots,
};
use omma_proto::v1::NodeState;
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};

use super::*;
use crate::images::slots::slot_set;
use crate::metadata::groups::wanted;
use crate::metadata::state;

/// Ticks of silence after which a node counts as lost.
const LOST_AFTER: u32 = 15;
const STORM: u32 = 150;
/// Ticks in which everything must be in order once the storm is over.
const PATIENCE: u32 = 600;

/// A group and the copies of it.
#[derive(Debug, Default)]
struct Model {
    members_index: u64,
    /// The voters before a change that was cut off.
    old: Option<BTreeSet<NodeId>>,
    voters: BTreeSet<NodeId>,
    learners: BTreeSet<NodeId>,
    leader: Option<NodeId>,
    led_for: u32,
    /// How much of the group each node has, of [`Model::FULL`].
    copies: BTreeMap<NodeId, u32>,
}

impl Model {
    const FULL: u32 = 5;

    fn has_quorum(&self, up: &BTreeSet<NodeId>) -> bool {
        let alive = |v: &&NodeId| up.contains(v) && self.copies.get(v) == Some(&Self::FULL);
        let majority = |set: &BTreeSet<NodeId>| set.iter().filter(alive).count() * 2 > set.len();
        majority(&self.voters) && self.old.as_ref().is_none_or(majority)
    }
}

#[derive(Debug)]
struct SimNode {
    up: bool,
    room: DiskRoom,
    /// Never comes back.
    dead: bool,
    silent: u32,
    held: BTreeSet<GroupId>,
}

impl Default for SimNode {
    fn default() -> Self {
        let (up, dead, silent, held) = (false, false, 0, BTreeSet::new());
        Self { up, room: DiskRoom::Ample, dead, silent, held }
    }
}

struct World {
    rng: StdRng,
    metadata: Metadata,
    index: u64,
    nodes: BTreeMap<NodeId, SimNode>,
    groups: BTreeMap<GroupId, Model>,
    /// How many slots went from one group to another.
    slots_moved: usize,
    /// Steps that were sent and may arrive late, or again.
    late: Vec<(Step, u64)>,
    begun: usize,
    next_node: NodeId,
    replication: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let replication = *[1, 2, 3, 3, 3].choose(&mut rng).unwrap();
        let count = rng.random_range(replication.max(2)..=6) as u64;
        let (zones, groups) = (rng.random_range(1..=4u64), rng.random_range(1..=8));
        let nodes = (1..=count).map(|id| node(id, id % zones)).collect();
        Self::formed(rng, nodes, groups, replication)
    }

    fn formed(rng: StdRng, nodes: Vec<Node>, groups: u32, replication: usize) -> Self {
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
    fn command(&mut self, command: Command) -> bool {
        self.index += 1;
        let outcome = state::apply(&mut self.metadata, self.index, MetadataCommand { command: Some(command) });
        matches!(outcome.outcome, Some(Outcome::Done(_)))
    }

    fn up(&self) -> BTreeSet<NodeId> {
        self.nodes.iter().filter(|(_, n)| n.up).map(|(id, _)| *id).collect()
    }

    fn observed(&self) -> (BTreeMap<NodeId, NodeView>, BTreeMap<GroupId, GroupView>) {
        let health = |n: &SimNode| match n.silent {
            0 => Health::Up,
            s if s < LOST_AFTER => Health::Away,
            _ => Health::Lost,
        };
        let nodes =
            self.nodes.iter().map(|(id, n)| (*id, NodeView { health: health(n), held: n.held.clone(), room: n.room }));
        let nodes = nodes.collect();
        let up = self.up();
        let views = self.groups.iter().filter_map(|(id, m)| {
            let members = m.voters.iter().chain(&m.learners).copied();
            let ready = members.filter(|n| up.contains(n) && m.copies.get(n) == Some(&Model::FULL)).collect();
            let all = m.old.iter().flatten().chain(&m.voters).copied().collect();
            Some((
                *id,
                GroupView {
                    leader: m.leader?,
                    settled: m.led_for > 3,
                    members_index: m.members_index,
                    committed: true,
                    joint: m.old.is_some(),
                    voters: all,
                    learners: m.learners.clone(),
                    ready,
                    images: u64::from(*id),
                },
            ))
        });
        (nodes, views.collect())
    }

    fn plan(&self) -> Vec<Step> {
        let (nodes, groups) = self.observed();
        plan(&View { metadata: &self.metadata, nodes: &nodes, groups: &groups, may_transfer: true })
    }

    /// As the driver does it; `epoch` is that of the plan.
    fn execute(&mut self, step: &Step, epoch: u64) {
        if let Some(command) = step.command(epoch, None) {
            let done = self.command(command);
            self.begun += usize::from(done && matches!(step, Step::Begin { .. }));
            if let (true, Step::AddGroup { replicas }) = (done, step) {
                let voters = replicas.iter().copied().collect();
                let id = self.metadata.groups.iter().map(|g| g.group_id).max().unwrap();
                let copies = replicas.iter().map(|n| (*n, Model::FULL)).collect();
                assert!(self.groups.insert(id, Model { voters, copies, ..Model::default() }).is_none(), "{id} again");
            }
            return;
        }
        let cut_off = self.rng.random_bool(0.2);
        let (Step::AddLearner { group, members_index, .. }
        | Step::RemoveLearner { group, members_index, .. }
        | Step::SetVoters { group, members_index, .. }
        | Step::LeaveJoint { group, members_index }
        | Step::Transfer { group, members_index, .. }) = step
        else {
            panic!("{step:?} is neither of the map nor of the members");
        };
        let up = self.up();
        // One that was retired is gone.
        let Some(model) = self.groups.get_mut(group).filter(|m| m.members_index == *members_index) else { return };
        if model.leader.is_none() || !model.has_quorum(&up) {
            return;
        }
        match step {
            Step::Transfer { to, .. } => {
                assert!(model.voters.contains(to));
                (model.leader, model.led_for) = (Some(*to), 0);
                return;
            }
            Step::AddLearner { node, .. } => assert!(!model.voters.contains(node) && model.learners.insert(*node)),
            Step::RemoveLearner { node, .. } => assert!(model.learners.remove(node), "{node} is no learner"),
            Step::LeaveJoint { .. } => model.old = None,
            Step::SetVoters { voters, .. } => {
                for voter in voters.difference(&model.voters) {
                    assert!(model.learners.remove(voter), "{voter} is no learner");
                    // Its disk may have been lost just before a late step arrived.
                    let caught_up = model.copies.get(voter) == Some(&Model::FULL);
                    assert!(caught_up || self.nodes[voter].dead, "{voter} has not caught up");
                }
                let old = std::mem::replace(&mut model.voters, voters.clone());
                // All nodes of the cluster go on learning its metadata.
                if *group == METADATA_GROUP {
                    model.learners.extend(old.difference(voters));
                }
                model.old = cut_off.then_some(old);
            }
            _ => {}
        }
        model.members_index += 1;
    }

    /// Elections, copying, cleaning up.
    fn live(&mut self) {
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
    fn move_slots(&mut self) {
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

    /// What must hold at any time.
    fn check(&self) {
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

    /// One round of whoever drives now, which may die after any step.
    fn drive(&mut self, storm: bool) -> usize {
        self.move_slots();
        let mut epoch = self.metadata.epoch;
        let (steps, leads) = (self.plan(), self.groups[&METADATA_GROUP].leader.is_some());
        if !leads {
            return 1;
        }
        for step in &steps {
            let fate = if storm { self.rng.random_range(0..10) } else { 9 };
            match fate {
                0 => continue,
                1 => self.late.push((step.clone(), epoch)),
                _ => {
                    if fate == 2 {
                        self.late.push((step.clone(), epoch));
                    }
                    let before = self.metadata.epoch;
                    self.execute(step, epoch);
                    epoch += self.metadata.epoch - before;
                }
            }
            if fate == 3 {
                // The next one knows of nobody's silence.
                self.nodes.values_mut().for_each(|n| n.silent = n.silent.min(1));
                break;
            }
            self.check();
        }
        steps.len() + self.metadata.slot_moves.len()
    }

    fn arrive_late(&mut self) {
        while !self.late.is_empty() && self.rng.random_bool(0.3) {
            let at = self.rng.random_range(0..self.late.len());
            let (step, epoch) = self.late.swap_remove(at);
            self.execute(&step, epoch);
            self.check();
        }
    }

    fn active(&self) -> Vec<NodeId> {
        self.metadata.nodes.iter().filter(|n| is_active(n)).map(|n| n.node_id).collect()
    }

    /// Whether every group keeps its majority without `lost`, with nothing else amiss.
    fn can_lose(&self, lost: NodeId) -> bool {
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

    fn harm(&mut self) {
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

    fn die(&mut self, id: NodeId) {
        *self.nodes.get_mut(&id).unwrap() = SimNode { dead: true, ..SimNode::default() };
        for model in self.groups.values_mut() {
            model.copies.remove(&id);
        }
    }

    fn join(&mut self, instead_of: Option<Node>) {
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

    fn run(&mut self) {
        for _ in 0..STORM {
            if self.rng.random_bool(0.3) {
                self.harm();
            }
            self.live();
            self.drive(true);
            self.arrive_late();
            self.check();
        }
        self.nodes.values_mut().filter(|n| !n.dead).for_each(|n| n.up = true);
        self.command(Command::SetMovesPaused(SetMovesPaused { paused: false }));
        self.settle();
        self.in_order();
    }

    /// Until nothing is left to do.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..PATIENCE {
            self.live();
            let steps = self.drive(false);
            self.check();
            quiet = if steps == 0 { quiet + 1 } else { 0 };
            if quiet > LOST_AFTER + Model::FULL {
                return;
            }
        }
        panic!("it does not come to rest: {:?}\n{:#?}\n{:#?}", self.plan(), self.metadata, self.groups);
    }

    /// After the storm.
    fn in_order(&self) {
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
                let (leader, ample) = (model.leader.unwrap(), |id: &NodeId| room(id) == DiskRoom::Ample);
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

fn node(node_id: NodeId, zone: u64) -> Node {
    Node { node_id, address: format!("n{node_id}"), zone: zone.to_string(), ..Node::default() }
}

fn even(nodes: u64, groups: u32) -> World {
    World::formed(StdRng::seed_from_u64(1), (1..=nodes).map(|id| node(id, 0)).collect(), groups, 3)
}

#[test]
fn whatever_happens_everything_comes_to_order() {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let seeds = match number("OMMA_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("OMMA_SIM_RUNS").unwrap_or(1000),
    };
    for seed in seeds {
        let run = std::panic::catch_unwind(|| World::new(seed).run());
        if run.is_err() {
            panic!("failed with OMMA_SIM_SEED={seed}");
        }
    }
}

#[test]
fn nothing_is_done_where_nothing_is_to_do() {
    for nodes in 3..8 {
        for groups in 1..12 {
            let mut world = even(nodes, groups);
            world.settle();
            assert_eq!(world.begun, 0, "{groups} groups on {nodes} nodes");
        }
    }
}

#[test]
fn a_short_absence_moves_nothing() {
    let mut world = even(4, 4);
    world.live();
    world.nodes.get_mut(&1).unwrap().up = false;
    for _ in 0..LOST_AFTER - 2 {
        world.live();
        world.drive(false);
    }
    world.nodes.get_mut(&1).unwrap().up = true;
    world.settle();
    assert_eq!(world.begun, 0);
    world.in_order();
}

#[test]
fn no_more_moves_than_needed() {
    // 12 replicas on 3 nodes; a fourth takes 3 of them.
    let mut world = even(3, 4);
    world.live();
    world.join(None);
    world.settle();
    assert_eq!(world.begun, 3);
    world.in_order();
    // Drained, it gives back what it had.
    let (node_id, state) = (4, NodeState::Draining.into());
    assert!(world.command(Command::SetNodeState(SetNodeState { node_id, state })));
    world.settle();
    assert_eq!(world.begun, 6);
    world.in_order();
    assert_eq!(world.metadata.nodes[3].state(), NodeState::Drained);
}

#[test]
fn a_lost_node_is_replaced_only_by_a_spare() {
    let mut world = even(3, 3);
    world.live();
    world.die(2);
    world.settle();
    assert_eq!(world.begun, 0, "nobody could take them");
    world.join(None);
    world.settle();
    assert_eq!(world.begun, 3);
    world.in_order();
}

#[test]
fn a_pause_stops_moves_and_their_end_goes_on() {
    let mut world = even(3, 3);
    world.live();
    world.join(None);
    world.drive(false);
    assert!(world.begun > 0);
    let before = world.begun;
    assert!(world.command(Command::SetMovesPaused(SetMovesPaused { paused: true })));
    for _ in 0..50 {
        world.live();
        world.drive(false);
    }
    let moves = |w: &World| w.metadata.groups.iter().filter(|g| g.r#move.is_some()).count();
    assert_eq!((world.begun, moves(&world)), (before, before));
    assert!(world.command(Command::SetMovesPaused(SetMovesPaused { paused: false })));
    world.settle();
    world.in_order();
}

#[test]
fn leaders_without_room_hand_over_and_come_back() {
    let mut world = even(3, 6);
    world.settle();
    let led = |w: &World, node: NodeId| {
        w.groups.iter().filter(|(id, m)| **id != METADATA_GROUP && m.leader == Some(node)).count()
    };
    assert_eq!([1, 2, 3].map(|n| led(&world, n)), [2, 2, 2]);
    assert!(world.command(Command::SetMovesPaused(SetMovesPaused { paused: true })));
    for (room, then) in [(DiskRoom::Little, [2, 2, 2]), (DiskRoom::None, [0, 3, 3]), (DiskRoom::Little, [0, 3, 3])] {
        world.nodes.get_mut(&1).unwrap().room = room;
        world.settle();
        assert_eq!([1, 2, 3].map(|n| led(&world, n)), then, "{room:?}");
    }
    // Nobody has room: all stay where they are.
    world.nodes.values_mut().for_each(|n| n.room = DiskRoom::None);
    world.settle();
    assert_eq!([1, 2, 3].map(|n| led(&world, n)), [0, 3, 3]);
    world.nodes.values_mut().for_each(|n| n.room = DiskRoom::Ample);
    assert!(world.command(Command::SetMovesPaused(SetMovesPaused { paused: false })));
    world.settle();
    assert_eq!(([1, 2, 3].map(|n| led(&world, n)), world.begun), ([2, 2, 2], 0));
}

fn set_groups(world: &mut World, groups: u32) {
    set_groups_now(world, groups);
    world.settle();
    world.in_order();
}

#[test]
fn no_more_slots_move_than_needed() {
    let mut world = even(3, 3);
    world.live();
    set_groups(&mut world, 6);
    // Of 1365, 1365 and 1366 slots each keeps 683; the rest goes.
    assert_eq!((world.slots_moved, world.begun), (2047, 0));
    assert_eq!(world.metadata.groups.iter().map(|g| g.slots.len()).collect::<Vec<_>>(), [1; 6]);
    set_groups(&mut world, 3);
    assert_eq!(world.slots_moved, 2047 + 2047);
    assert_eq!(world.metadata.groups.iter().map(|g| g.group_id).collect::<Vec<_>>(), [1, 2, 3]);
    set_groups(&mut world, 4);
    assert_eq!(world.metadata.groups[3].group_id, 7, "no id is used again");
    assert_eq!(world.slots_moved, 4094 + 1024);
}

#[test]
fn paused_slots_stay_where_they_are() {
    let mut world = even(3, 3);
    world.live();
    assert!(world.command(Command::SetMovesPaused(SetMovesPaused { paused: true })));
    set_groups_now(&mut world, 6);
    for _ in 0..50 {
        world.live();
        world.drive(false);
    }
    assert_eq!((world.metadata.groups.len(), world.slots_moved), (3, 0));
    assert!(world.command(Command::SetMovesPaused(SetMovesPaused { paused: false })));
    set_groups(&mut world, 6);
}

fn set_groups_now(world: &mut World, groups: u32) {
    assert!(world.command(Command::SetGroups(SetGroups { groups })));
}
