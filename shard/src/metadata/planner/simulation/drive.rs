//! Whoever drives: what it sees, what it does, and how little it may get done.

use std::collections::BTreeMap;

use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_proto::internal::v1::SetMovesPaused;
use omma_proto::internal::v1::metadata_command::Command;
use rand::Rng;

use super::LOST_AFTER;
use super::model::{Model, SimNode};
use super::world::World;
use crate::metadata::planner::{GroupView, Health, NodeView, Step, View, plan};
use crate::metadata::rules::NEWEST;

const STORM: u32 = 150;
/// Ticks in which everything must be in order once the storm is over.
const PATIENCE: u32 = 600;

impl World {
    pub(super) fn observed(&self) -> (BTreeMap<NodeId, NodeView>, BTreeMap<GroupId, GroupView>) {
        let health = |n: &SimNode| match n.silent {
            0 => Health::Up,
            s if s < LOST_AFTER => Health::Away,
            _ => Health::Lost,
        };
        let view = |n: &SimNode| NodeView { health: health(n), held: n.held.clone(), room: n.room, rules: NEWEST };
        let nodes = self.nodes.iter().map(|(id, n)| (*id, view(n))).collect();
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

    pub(super) fn plan(&self) -> Vec<Step> {
        let (nodes, groups) = self.observed();
        plan(&View { metadata: &self.metadata, nodes: &nodes, groups: &groups, may_transfer: true })
    }

    /// As the driver does it; `epoch` is that of the plan.
    pub(super) fn execute(&mut self, step: &Step, epoch: u64) {
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
                // It takes a majority of either to end it.
                model.old = Some(old).filter(|_| cut_off || !model.voters_answer(&up));
            }
            _ => {}
        }
        model.members_index += 1;
    }

    /// One round of whoever drives now, which may die after any step.
    pub(super) fn drive(&mut self, storm: bool) -> usize {
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

    pub(super) fn arrive_late(&mut self) {
        while !self.late.is_empty() && self.rng.random_bool(0.3) {
            let at = self.rng.random_range(0..self.late.len());
            let (step, epoch) = self.late.swap_remove(at);
            self.execute(&step, epoch);
            self.check();
        }
    }

    pub(super) fn run(&mut self) {
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
    pub(super) fn settle(&mut self) {
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
}
