//! How a group's members change: one change at a time, each for the members that it was planned for.

use std::collections::BTreeSet;

use omma_common::deadline::Deadline;
use omma_common::ids::{METADATA_GROUP, NodeId};
use omma_common::retry::Backoff;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ChangeMembershipError, ClientWriteError, ForwardReason, RaftError};
use openraft::raft::Precondition;
use openraft::{BasicNode, ChangeMembers};

use super::error::GroupError;
use super::replica::Replica;

/// A new voter may lack so many entries, which it gets within moments.
const NEARLY_CAUGHT_UP: u64 = 1_000;

/// A change of members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberChange {
    /// The node begins to replicate, without a vote.
    AddLearner {
        /// Its id.
        node: NodeId,
        /// Its host and port.
        address: String,
    },
    /// The node, which must not be a voter, leaves.
    RemoveLearner(NodeId),
    /// These, which must be members and have caught up, vote from now on. Who did and is not named leaves the group;
    /// in the metadata group it stays as a learner.
    SetVoters(BTreeSet<NodeId>),
    /// Ends a change of voters that was cut off half-way.
    LeaveJoint,
}

impl Replica {
    /// Makes a change and waits until it is committed. Only on the leader, and only if its newest members are those at
    /// log index `members_index`: a change that comes late, or twice, is refused. One that fails otherwise may still
    /// take effect.
    pub async fn change_members(
        &self,
        members_index: u64,
        change: MemberChange,
        deadline: Deadline,
    ) -> Result<(), GroupError> {
        let planned_for = {
            let metrics = self.raft().metrics();
            let metrics = metrics.borrow_watched();
            *metrics.membership_config.log_id()
        };
        if planned_for.map_or(0, |id| id.index) != members_index {
            return Err(self.refused("they have changed since this was planned"));
        }
        if let MemberChange::SetVoters(voters) = &change {
            self.check_caught_up(voters)?;
        }
        let changes = match change {
            MemberChange::AddLearner { node, address } => {
                ChangeMembers::AddNodes([(node, BasicNode::new(address))].into())
            }
            MemberChange::RemoveLearner(node) => ChangeMembers::RemoveNodes([node].into()),
            MemberChange::SetVoters(voters) => ChangeMembers::ReplaceAllVoters(voters),
            MemberChange::LeaveJoint => ChangeMembers::AddVoterIds(BTreeSet::new()),
        };
        let retain = self.group() == METADATA_GROUP;
        let late = || GroupError::DeadlineExceeded { group: self.group() };
        let mut backoff = Backoff::in_cluster();
        loop {
            let unchanged = [Precondition::LastMembershipLogId { last_membership_log_id: planned_for }];
            let attempt = self.raft().change_membership_if(changes.clone(), retain, unchanged);
            let error = match tokio::time::timeout_at(deadline.instant(), attempt).await.map_err(|_| late())? {
                Ok(_) => return Ok(()),
                Err(RaftError::Fatal(e)) => return Err(self.fatal(&e)),
                Err(RaftError::APIError(error)) => error,
            };
            let passes = match &error {
                // A new leader first has to commit an entry of its own.
                ClientWriteError::ChangeMembershipError(e) => {
                    matches!(e, ChangeMembershipError::UncommittedLeaderLog(_))
                }
                ClientWriteError::ForwardToLeader(to) => to.reason != ForwardReason::NotLeader,
                _ => false,
            };
            if !passes {
                return Err(self.write_error(error));
            }
            if !backoff.sleep(deadline).await {
                return Err(late());
            }
        }
    }

    fn check_caught_up(&self, voters: &BTreeSet<NodeId>) -> Result<(), GroupError> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let now: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
        let reached = |id: &NodeId| {
            let matching = metrics.replication.as_ref()?.get(id)?.as_ref()?;
            Some(matching.index)
        };
        let lags = |id: &&NodeId| !now.contains(id) && reached(id).is_none_or(|at| at + NEARLY_CAUGHT_UP < last);
        match voters.iter().find(lags) {
            None => Ok(()),
            Some(node) => Err(self.refused(format!("node {node} has not caught up"))),
        }
    }
}
