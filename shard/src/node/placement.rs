//! Moves replicas: the metadata leader looks at all nodes, asks the planner what to do, has it done, and looks again.
//!
//! Nothing that matters is kept here. Who leads next begins with the same replicated state, and counts anew for how
//! long nodes have been silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use futures::StreamExt;
use futures::future::join_all;
use omma_common::deadline::Deadline;
use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1::change_members_request::Change;
use omma_proto::internal::v1::metadata_outcome::Outcome;
use omma_proto::internal::v1::{
    ChangeMembersRequest, DiskRoom, Metadata, MetadataCommand, MetadataOutcome, MetadataRefusal, NodeSet,
    ObserveNodeResponse, ObservedReplica, RaftNode,
};
use omma_proto::v1::NodeState;
use prost::Message;
use tokio::time::Instant;

use super::{Node, peers};
use crate::group::{Barrier, Role};
use crate::metadata::groups::wanted;
use crate::metadata::planner::{GroupView, Health, NodeView, Step, View, plan};

/// Between looks while nothing is to be done, …
const IDLE: Duration = Duration::from_secs(1);
/// … while a replica is on its way, …
const MOVING: Duration = Duration::from_millis(300);
/// … and after something was done.
const BUSY: Duration = Duration::from_millis(100);
/// A node that has not answered for this long is away.
const SILENT: Duration = Duration::from_secs(4);
/// Leadership moves only from a replica that has led for this long, …
const SETTLES: Duration = Duration::from_secs(5);
/// … and one at a time, this far apart.
const BETWEEN_TRANSFERS: Duration = Duration::from_secs(2);
/// A member that is at most so many entries behind has caught up.
const CAUGHT_UP: u64 = 1_000;
const PROPOSAL: Duration = Duration::from_secs(2);
/// Changes of members that are made at once.
const AT_ONCE: usize = 8;

/// For as long as the node lives.
pub(super) async fn drive(node: &Node) {
    let mut driver = None;
    loop {
        let wait = match leads(node).await {
            true => driver.get_or_insert_with(Driver::new).round(node).await,
            false => {
                driver = None;
                IDLE
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Whether this node leads the metadata group, for certain.
pub(super) async fn leads(node: &Node) -> bool {
    let replica = &node.metadata_replica;
    replica.status().role == Role::Leader
        && replica.read_barrier(Barrier::Linearizable, Deadline::after(PROPOSAL)).await.is_ok()
}

/// What a metadata leader remembers while it leads.
struct Driver {
    begun: Instant,
    /// When it looked last.
    looked: Instant,
    heard: BTreeMap<NodeId, Instant>,
    held: BTreeMap<NodeId, BTreeSet<GroupId>>,
    room: BTreeMap<NodeId, DiskRoom>,
    rules: BTreeMap<NodeId, u32>,
    leaders: BTreeMap<GroupId, (NodeId, Instant)>,
    transferred: Instant,
}

impl Driver {
    fn new() -> Self {
        let begun = Instant::now();
        Self {
            begun,
            looked: begun,
            heard: BTreeMap::new(),
            held: BTreeMap::new(),
            room: BTreeMap::new(),
            rules: BTreeMap::new(),
            leaders: BTreeMap::new(),
            transferred: begun,
        }
    }

    /// Looks once and does what is to be done. Returns how long to wait.
    async fn round(&mut self, node: &Node) -> Duration {
        let metadata = node.metadata.current();
        self.forgive(self.looked.elapsed());
        let seen = look(node, &metadata).await;
        self.looked = Instant::now();
        // A new leader listens before it decides anything.
        if self.begun.elapsed() < SILENT && seen.len() < metadata.nodes.len() {
            self.nodes(&metadata, &seen, None);
            return BUSY;
        }
        let nodes = self.nodes(&metadata, &seen, node.config.replace_after);
        let groups = self.groups(&seen);
        let may_transfer = self.transferred.elapsed() > BETWEEN_TRANSFERS;
        let steps = plan(&View { metadata: &metadata, nodes: &nodes, groups: &groups, may_transfer });
        if steps.iter().any(|s| matches!(s, Step::Transfer { .. })) {
            self.transferred = Instant::now();
        }
        match self.act(node, &metadata, &groups, steps).await {
            true => BUSY,
            false if metadata.groups.iter().any(|g| g.r#move.is_some()) => MOVING,
            false if wanted(&metadata) != metadata.groups.len() || !metadata.slot_moves.is_empty() => MOVING,
            false => IDLE,
        }
    }

    /// While this node did not look, nobody was silent: it may have been stopped itself, or starved.
    fn forgive(&mut self, blind: Duration) {
        let usual = IDLE * 2;
        if blind > usual {
            self.heard.values_mut().for_each(|at| *at += blind - usual);
            self.begun += blind - usual;
        }
    }

    fn nodes(
        &mut self,
        metadata: &Metadata,
        seen: &BTreeMap<NodeId, ObserveNodeResponse>,
        replace_after: Option<Duration>,
    ) -> BTreeMap<NodeId, NodeView> {
        let now = Instant::now();
        for (id, said) in seen {
            self.heard.insert(*id, now);
            self.held.insert(*id, said.held_group_ids.iter().copied().collect());
            self.room.insert(*id, said.disk_room());
            self.rules.insert(*id, said.rules);
        }
        let view = |id: NodeId| {
            let silent = now - self.heard.get(&id).copied().unwrap_or(self.begun);
            let health = match silent {
                s if replace_after.is_some_and(|most| s > most.max(SILENT)) => Health::Lost,
                s if s > SILENT => Health::Away,
                _ => Health::Up,
            };
            let held = self.held.get(&id).cloned().unwrap_or_default();
            let room = self.room.get(&id).copied().unwrap_or_default();
            (id, NodeView { health, held, room, rules: self.rules.get(&id).copied().unwrap_or_default() })
        };
        metadata.nodes.iter().map(|n| view(n.node_id)).collect()
    }

    /// Every group whose leader answers, as it sees it.
    fn groups(&mut self, seen: &BTreeMap<NodeId, ObserveNodeResponse>) -> BTreeMap<GroupId, GroupView> {
        let mut leading: BTreeMap<GroupId, (NodeId, &ObservedReplica)> = BTreeMap::new();
        for (id, said) in seen {
            for replica in said.replicas.iter().filter(|r| r.leads) {
                let entry = leading.entry(replica.group_id).or_insert((*id, replica));
                if entry.1.term < replica.term {
                    *entry = (*id, replica);
                }
            }
        }
        let now = Instant::now();
        let mut view = |(group, (leader, replica)): (GroupId, (NodeId, &ObservedReplica))| {
            let since = self.leaders.entry(group).or_insert((leader, now));
            if since.0 != leader {
                *since = (leader, now);
            }
            let of = |id: &NodeId| seen.get(id)?.replicas.iter().find(|r| r.group_id == group);
            let is_ready = |id: &NodeId| {
                of(id).is_some_and(|r| r.settled && r.applied_index + CAUGHT_UP >= replica.committed_index)
            };
            let members = replica.voter_ids.iter().chain(&replica.learner_ids);
            let view = GroupView {
                leader,
                settled: since.1.elapsed() >= SETTLES,
                members_index: replica.members_index,
                committed: replica.members_committed,
                joint: replica.joint,
                voters: replica.voter_ids.iter().copied().collect(),
                learners: replica.learner_ids.iter().copied().collect(),
                ready: members.copied().filter(is_ready).collect(),
                images: replica.image_count,
            };
            (group, view)
        };
        leading.into_iter().map(&mut view).collect()
    }

    /// Whether anything was done.
    async fn act(
        &self,
        node: &Node,
        metadata: &Metadata,
        groups: &BTreeMap<GroupId, GroupView>,
        steps: Vec<Step>,
    ) -> bool {
        let address = |id: NodeId| metadata.nodes.iter().find(|n| n.node_id == id).map(|n| n.address.clone());
        let (mut epoch, mut done, mut changes) = (metadata.epoch, false, Vec::new());
        for step in steps {
            if let Some(command) = step.command(epoch, Some(SystemTime::now().into())) {
                match propose(node, MetadataCommand { command: Some(command) }).await {
                    Ok(()) => {
                        tracing::info!(?step, "placement");
                        epoch += 1;
                        done = true;
                    }
                    Err(reason) => tracing::info!(?step, %reason, "a step of the placement has to wait"),
                }
            } else if let Some(change) = change(&step, address)
                && let Some(leader) = groups.get(&change.group_id).and_then(|g| address(g.leader))
            {
                changes.push(async move {
                    let made = peers::change_members(&node.dialer, &leader, change).await;
                    match &made {
                        Ok(()) => tracing::info!(?step, "placement"),
                        Err(status) => tracing::info!(?step, reason = status.message(), "a step has to wait"),
                    }
                    made.is_ok()
                });
            }
        }
        let made: Vec<bool> = futures::stream::iter(changes).buffer_unordered(AT_ONCE).collect().await;
        done || made.contains(&true)
    }
}

/// What each node says that answers and is who it should be.
async fn look(node: &Node, metadata: &Metadata) -> BTreeMap<NodeId, ObserveNodeResponse> {
    let there = metadata.nodes.iter().filter(|n| n.state() != NodeState::Replaced);
    let asked = there.map(|n| async move {
        // Whoever asks is there, however long a call may take.
        if n.node_id == node.node_id {
            return Some((n.node_id, node.observe().await));
        }
        let said = peers::observe(&node.dialer, &n.address).await.ok().filter(|said| said.node_id == n.node_id)?;
        Some((n.node_id, said))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

pub(super) async fn propose(node: &Node, command: MetadataCommand) -> Result<(), String> {
    let deadline = Deadline::after(PROPOSAL);
    let proposed = node.metadata_replica.propose(command.encode_to_vec().into(), deadline).await;
    let outcome = MetadataOutcome::decode(proposed.map_err(|e| e.to_string())?.outcome).map_err(|e| e.to_string())?;
    match outcome.outcome {
        Some(Outcome::Done(_)) => Ok(()),
        Some(Outcome::Refusal(why)) => Err(format!("{:?}", MetadataRefusal::try_from(why).unwrap_or_default())),
        None => Err("no outcome".to_owned()),
    }
}

/// What a group's leader is asked to do; `None` if the step is none of its, or names a node that is not known.
fn change(step: &Step, address: impl Fn(NodeId) -> Option<String>) -> Option<ChangeMembersRequest> {
    let (group_id, members_index, change) = match step {
        Step::AddLearner { group, node, members_index } => {
            let node = RaftNode { node_id: *node, address: address(*node)? };
            (*group, *members_index, Change::AddLearner(node))
        }
        Step::RemoveLearner { group, node, members_index } => (*group, *members_index, Change::RemoveLearner(*node)),
        Step::SetVoters { group, voters, members_index } => {
            let voters = NodeSet { node_ids: voters.iter().copied().collect() };
            (*group, *members_index, Change::SetVoters(voters))
        }
        Step::LeaveJoint { group, members_index } => (*group, *members_index, Change::LeaveJoint(true)),
        Step::Transfer { group, to, members_index } => (*group, *members_index, Change::TransferTo(*to)),
        _ => return None,
    };
    Some(ChangeMembersRequest { group_id, members_index, change: Some(change) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_was_silent_while_nobody_listened() {
        let mut driver = Driver::new();
        let heard = driver.begun;
        driver.heard.insert(1, heard);
        driver.forgive(IDLE);
        assert_eq!(driver.heard[&1], heard, "between two looks");
        driver.forgive(Duration::from_secs(30));
        assert_eq!(driver.heard[&1] - heard, Duration::from_secs(28));
    }
}
