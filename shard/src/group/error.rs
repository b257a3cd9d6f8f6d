//! What can go wrong with a group, and what the API says about it.

use omma_common::error::{ApiError, Reason};
use omma_common::ids::{GroupId, NodeId};

use super::log_record::Damaged;
use super::state_machine::StateError;
use crate::room::NoRoom;
use crate::store::StoreError;

/// A request to a replica failed.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// Another replica leads, or none is known to. Nothing was proposed.
    #[error("this replica does not lead group {group}")]
    NotLeader {
        /// The group.
        group: GroupId,
        /// Who leads, as far as this replica knows, and its address.
        leader: Option<(NodeId, String)>,
    },
    /// The group has no leader with a majority just now. Nothing was proposed.
    #[error("group {group} is not available: {why}")]
    Unavailable {
        /// The group.
        group: GroupId,
        /// What it waits for.
        why: &'static str,
    },
    /// Too many proposals wait already. Nothing was proposed.
    #[error("{in_flight} proposals of group {group} wait already")]
    Overloaded {
        /// The group.
        group: GroupId,
        /// The bound.
        in_flight: usize,
    },
    /// The command does not fit into one message between replicas.
    #[error("the command takes {bytes} bytes; at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        limit: usize,
    },
    /// Not done in time. A proposal may still take effect.
    #[error("group {group} did not finish before the deadline")]
    DeadlineExceeded {
        /// The group.
        group: GroupId,
    },
    /// A read waits for an index that no write of the group can have.
    #[error("group {group} has not come to index {index}: the newest that is known of is {newest}")]
    BeyondLog {
        /// The group.
        group: GroupId,
        /// What the read waits for.
        index: u64,
        /// In the log, or committed by the leader.
        newest: u64,
    },
    /// The proposal was taken, but whether it took effect is not known: the replica stopped or lost its leadership.
    #[error("group {group} lost its leader while the proposal waited; it may or may not take effect")]
    OutcomeUnknown {
        /// The group.
        group: GroupId,
    },
    /// This node has no replica of the group.
    #[error("this node has no replica of group {0}")]
    UnknownGroup(GroupId),
    /// The node that was asked is not at this address any more.
    #[error("node {to} is not here: this is node {here}")]
    OtherNode {
        /// Who was asked.
        to: NodeId,
        /// Who is here.
        here: NodeId,
    },
    /// The replica is shut down.
    #[error("the replica of group {0} is stopped")]
    Stopped(GroupId),
    /// The change of members is not possible.
    #[error("the members of group {group} cannot be changed: {reason}")]
    Membership {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// Timings that contradict each other.
    #[error("unusable Raft timings: {0}")]
    Configuration(String),
    /// The disk is nearly full.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The log's store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored record of the log is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The replicated state failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// A folder or file beside the stores failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The replica stopped for good because of an earlier error.
    #[error("the replica of group {group} failed: {reason}")]
    Fatal {
        /// The group.
        group: GroupId,
        /// The first error.
        reason: String,
    },
}

impl GroupError {
    /// What the API says.
    pub fn reason(&self) -> Reason {
        match self {
            GroupError::NotLeader { .. } => Reason::NotLeader,
            GroupError::Unavailable { .. } => Reason::GroupUnavailable,
            GroupError::Overloaded { .. } => Reason::Overloaded,
            GroupError::TooLarge { .. } => Reason::MessageTooLarge,
            GroupError::DeadlineExceeded { .. } => Reason::DeadlineExceeded,
            GroupError::BeyondLog { .. } => Reason::InvalidArgument,
            GroupError::OutcomeUnknown { .. } => Reason::OutcomeUnknown,
            GroupError::UnknownGroup(_) | GroupError::OtherNode { .. } => Reason::UnknownGroup,
            GroupError::Stopped(_) => Reason::ShuttingDown,
            GroupError::NoRoom(_) | GroupError::State(StateError::NoRoom(_)) => Reason::DiskFull,
            GroupError::Damaged(_)
            | GroupError::Store(StoreError::Damaged { .. })
            | GroupError::State(StateError::Damaged { .. } | StateError::Store(StoreError::Damaged { .. })) => {
                Reason::DataLoss
            }
            GroupError::Membership { .. } => Reason::MembersChanged,
            GroupError::Configuration(_)
            | GroupError::Store(_)
            | GroupError::State(_)
            | GroupError::Io { .. }
            | GroupError::Fatal { .. } => Reason::Internal,
        }
    }
}

impl From<GroupError> for ApiError {
    fn from(error: GroupError) -> Self {
        let api = ApiError::new(error.reason(), error.to_string());
        match error {
            GroupError::NotLeader { leader: Some((node, address)), .. } => {
                api.with("leader_node_id", node).with("leader_address", address)
            }
            GroupError::BeyondLog { group, index, newest } => {
                let problem = format!(
                    "asks group {group} for index {index}, which no write to it has ({newest} is the newest): hand in \
                     tokens as writes to this cluster returned them, or none"
                );
                ApiError::field("session_tokens", problem)
            }
            _ => api,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_common::error::{metadata_of, reason_of};

    #[test]
    fn an_invalid_session_says_what_to_do() {
        let status = ApiError::from(GroupError::BeyondLog { group: 3, index: 1 << 63, newest: 40 }).to_status();
        assert_eq!(reason_of(&status), Some(Reason::InvalidArgument));
        assert!(status.message().contains("as writes to this cluster returned them"), "{}", status.message());
    }

    #[test]
    fn followers_name_the_leader() {
        let error = GroupError::NotLeader { group: 3, leader: Some((7, "10.0.0.7:7001".into())) };
        let status = ApiError::from(error).to_status();
        assert_eq!(reason_of(&status), Some(Reason::NotLeader));
        assert_eq!(metadata_of(&status, "leader_node_id").as_deref(), Some("7"));
        assert_eq!(metadata_of(&status, "leader_address").as_deref(), Some("10.0.0.7:7001"));
    }

    #[test]
    fn an_unknown_leader_is_left_out() {
        let status = ApiError::from(GroupError::NotLeader { group: 3, leader: None }).to_status();
        assert_eq!(metadata_of(&status, "leader_node_id"), None);
    }
}
