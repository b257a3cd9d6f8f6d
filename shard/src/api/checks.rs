//! What is checked before work is done for a request, and what a read that failed means.

use omma_common::error::{ApiError, Reason};
use omma_common::ids::GroupId;

use super::errors;
use super::shard::Answer;
use crate::group::state_machine::StateError;
use crate::group::{GroupState, Role};
use crate::metrics::REFUSED;
use crate::node::Node;

/// Spares a follower the work of encoding what it cannot propose. The proposal itself is what is safe.
pub(super) fn check_leader(node: &Node, state: &GroupState) -> Answer<()> {
    if state.role == Role::Leader {
        return Ok(());
    }
    let mut error = ApiError::new(Reason::NotLeader, format!("this node does not lead group {}", state.group));
    if let Some(leader) = state.leader {
        error = error.with("leader_node_id", leader);
        if let Some(address) = node.addresses.get(leader) {
            error = error.with("leader_address", address);
        }
    }
    Err(error)
}

impl Node {
    /// A read that met damage: another replica may answer it, and this one is built again from that.
    pub(super) fn read_error(&self, group: GroupId, error: &StateError) -> ApiError {
        let api = errors::state(error);
        if api.reason == Reason::DataLoss && self.found_damaged(group, error) {
            return ApiError::new(Reason::GroupUnavailable, format!("this replica is damaged: {error}"));
        }
        api
    }

    /// Refuses images while this node's disk, or those of so many others that no majority is left, are nearly full.
    pub(super) fn check_room(&self, state: &GroupState) -> Answer<()> {
        let refused = match self.config.room.for_images() {
            Err(why) => why.to_string(),
            Ok(()) => {
                let full = self.without_room(&state.voters);
                if can_acknowledge(state.voters.len(), full.len()) {
                    return Ok(());
                }
                let full: Vec<String> = full.iter().map(|node| format!("{node:x}")).collect();
                format!("the disks of the nodes {} are nearly full: make room on them", full.join(", "))
            }
        };
        REFUSED.with(&["disk"]).inc();
        Err(ApiError::new(Reason::DiskFull, refused))
    }
}

/// Whether so many voters can acknowledge a write although the disks of some, never this node's, are nearly full.
fn can_acknowledge(voters: usize, full: usize) -> bool {
    full == 0 || voters.saturating_sub(full) * 2 > voters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_majority_must_have_room() {
        assert!(can_acknowledge(3, 0) && can_acknowledge(3, 1) && !can_acknowledge(3, 2));
        assert!(can_acknowledge(2, 0) && !can_acknowledge(2, 1));
        assert!(can_acknowledge(1, 0) && can_acknowledge(0, 0) && can_acknowledge(5, 2) && !can_acknowledge(5, 3));
    }
}
