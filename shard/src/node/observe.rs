//! What this node tells the metadata leader about its replicas.

use std::time::Duration;

use futures::future::join_all;
use omma_common::deadline::Deadline;
use omma_proto::internal::v1::{ObserveNodeResponse, ObservedReplica};

use super::{Node, blocking};
use crate::group::{Barrier, Replica, Role};
use crate::metadata::rules::NEWEST;

/// A leader that hears from a majority knows so by its lease; one that has to ask may take so long.
const LEASE_CHECK: Duration = Duration::from_millis(300);

impl Node {
    pub(crate) async fn observe(&self) -> ObserveNodeResponse {
        let shards = self.shards();
        let members = std::iter::once(&self.metadata_replica).chain(shards.iter().map(|s| &s.replica)).map(members);
        let mut replicas = join_all(members).await;
        let states: Vec<_> = shards.iter().map(|s| s.state.clone()).collect();
        let stats = blocking(move || states.iter().map(|s| s.stats()).collect::<Vec<_>>()).await;
        for (replica, stats) in replicas.iter_mut().skip(1).zip(stats) {
            replica.applied_index = stats.applied;
            // There is no digest while the state is not exact.
            replica.settled = !stats.digest.is_empty();
            replica.image_count = stats.images;
        }
        let (node_id, held_group_ids) = (self.node_id, self.held.groups());
        let disk_room = self.config.room.look().into();
        ObserveNodeResponse { node_id, replicas, held_group_ids, disk_room, rules: NEWEST }
    }
}

/// How a replica sees its group. Of the metadata group this is all there is to say.
async fn members(replica: &Replica) -> ObservedReplica {
    let leads = replica.status().role == Role::Leader
        && replica.read_barrier(Barrier::Linearizable, Deadline::after(LEASE_CHECK)).await.is_ok();
    // After the barrier: what a deposed leader knows is not told as a leader's word.
    let state = replica.status();
    ObservedReplica {
        group_id: state.group,
        term: state.term,
        leads: leads && state.role == Role::Leader,
        members_index: state.members_index,
        members_committed: state.members_committed,
        joint: state.joint,
        voter_ids: state.voters,
        learner_ids: state.learners,
        committed_index: state.committed,
        applied_index: state.applied,
        settled: true,
        image_count: 0,
    }
}
