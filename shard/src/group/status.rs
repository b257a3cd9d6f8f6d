//! A replica's view of its group.

use omma_common::ids::{GroupId, NodeId};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::{Instant, RaftMetrics, ServerState};

use super::error::GroupError;
use super::replica::Replica;
use super::types::{Config, LogId};

/// What a replica does in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Takes proposals.
    Leader,
    /// Votes and replicates.
    Follower,
    /// Stands for election.
    Candidate,
    /// Replicates without a vote, or does not belong to the group yet.
    Learner,
}

/// A replica's view of its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupState {
    /// The group.
    pub group: GroupId,
    /// What this replica does.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// Who leads, as far as is known.
    pub leader: Option<NodeId>,
    /// Index of this replica's last log entry; 0 also if there is none.
    pub last_log: u64,
    /// Index of the last entry known to be committed.
    pub committed: u64,
    /// Index of the last entry applied here.
    pub applied: u64,
    /// Who votes, ascending.
    pub voters: Vec<NodeId>,
    /// Who only replicates, ascending.
    pub learners: Vec<NodeId>,
    /// Log index of the newest members that this replica knows.
    pub members_index: u64,
    /// They are committed.
    pub members_committed: bool,
    /// They are two sets of voters: a change is under way, or was cut off.
    pub joint: bool,
}

/// How far the leader may be ahead of what a replica has heard of: far more than a group writes between two heartbeats.
/// What is further ahead is refused at once, whoever is asked.
const MOST_UNHEARD: u64 = 1_000_000;

impl GroupState {
    /// Committed entries that are yet to be applied; `None` without a leader, who says what is committed.
    pub(super) fn lag(&self) -> Option<u64> {
        self.leader.map(|_| self.committed.saturating_sub(self.applied))
    }

    /// The newest index that this replica knows of.
    pub(super) fn newest(&self) -> u64 {
        self.last_log.max(self.committed)
    }

    /// The newest index that this replica knows of, if none of the group's writes can have `index`. A replica that
    /// follows nobody, or has heard nothing yet, cannot tell.
    fn newest_before(&self, index: u64) -> Option<u64> {
        let newest = self.newest();
        let tells = self.leader.is_some() && self.committed > 0;
        (tells && index > newest.saturating_add(MOST_UNHEARD)).then_some(newest)
    }
}

/// Wraps openraft's metrics.
pub(super) fn view(group: GroupId, metrics: &RaftMetrics<Config>) -> GroupState {
    let index = |id: &Option<LogId>| id.as_ref().map_or(0, |id| id.index);
    let membership = metrics.membership_config.membership();
    let members_index = index(metrics.membership_config.log_id());
    let committed = index(&metrics.cluster_committed).max(index(&metrics.local_committed));
    GroupState {
        group,
        role: match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner | ServerState::Shutdown => Role::Learner,
        },
        term: metrics.current_term,
        leader: metrics.current_leader,
        last_log: metrics.last_log_index.unwrap_or(0),
        committed,
        applied: index(&metrics.last_applied),
        voters: membership.voter_ids().collect(),
        learners: membership.learner_ids().collect(),
        members_index,
        members_committed: members_index <= committed,
        joint: membership.get_joint_config().len() > 1,
    }
}

impl Replica {
    /// Refuses to wait for an index that will not come: a session token holds whatever its sender wrote into it.
    pub(super) fn check_index(&self, index: u64) -> Result<(), GroupError> {
        let group = self.group();
        match self.status().newest_before(index) {
            Some(newest) => Err(GroupError::BeyondLog { group, index, newest }),
            None => Ok(()),
        }
    }

    /// Whether this replica leads and has heard from a majority within two election timeouts.
    pub fn leads(&self) -> bool {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let alone = metrics.membership_config.voter_ids().count() == 1;
        let heard = metrics.last_quorum_acked.as_ref().is_some_and(|at| at.elapsed() <= self.election());
        metrics.state.is_leader() && (alone || heard)
    }

    /// On the leader: the last log index that each other member is known to have.
    pub fn followers(&self) -> Vec<(NodeId, u64)> {
        let metrics = self.raft().metrics();
        let metrics = metrics.borrow_watched();
        let others = metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id);
        others.map(|(id, matching)| (*id, matching.as_ref().map_or(0, |log_id| log_id.index))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_be_explained_is_refused() {
        let state = |leader, last_log, committed| GroupState {
            group: 2,
            role: Role::Follower,
            term: 1,
            leader,
            last_log,
            committed,
            applied: 0,
            voters: vec![1],
            learners: vec![],
            members_index: 0,
            members_committed: true,
            joint: false,
        };
        for (leader, log, committed, index, refused) in [
            (Some(1), 40, 50, 1_000_050, None),
            (Some(1), 40, 50, 1_000_051, Some(50)),
            (Some(1), 60, 50, 1 << 63, Some(60)),
            (Some(1), u64::MAX, 50, u64::MAX, None),
            // Follows nobody, or is new: it may be far behind.
            (None, 40, 50, 1 << 63, None),
            (Some(1), 0, 0, 5_000_000, None),
        ] {
            assert_eq!(
                state(leader, log, committed).newest_before(index),
                refused,
                "{leader:?} {log} {committed} {index}"
            );
        }
    }
}
