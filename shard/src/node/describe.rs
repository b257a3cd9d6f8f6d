//! How a node describes itself: to peers, coordinators and the cluster status.

use omma_common::ids::METADATA_GROUP;
use omma_proto::internal::v1::{
    self as internal, CollectionCount, DiscoverResponse, GetNodeStatusResponse, LeaderHint, ReplicaState,
};
use omma_proto::v1::{EncoderStatus, NodeStatus, ReplicaRole, ReplicaStatus, VectorSpace};

use super::Node;
use crate::group::{GroupState, Role};
use crate::images::StateStats;

impl Node {
    /// The vector space of this node's encoder.
    pub(crate) fn encoder_space(&self) -> VectorSpace {
        let info = self.encoder.info();
        VectorSpace { id: info.space_id.clone(), dimension: info.dimension }
    }

    /// As the cluster map has it.
    pub(crate) fn description(&self) -> internal::Node {
        let (address, zone) = (self.config.advertise.clone(), self.config.zone.clone());
        internal::Node { node_id: self.node_id, address, zone, ..internal::Node::default() }
    }

    fn encoder_status(&self) -> EncoderStatus {
        let (info, counters) = (self.encoder.info(), self.encoder.counters());
        EncoderStatus {
            model: info.model.clone(),
            vector_space: Some(self.encoder_space()),
            device: info.device.clone(),
            runtime: info.runtime.clone(),
            images_encoded: counters.images,
            batches: counters.batches,
        }
    }

    /// For nodes that look for a cluster.
    pub(crate) async fn discovery(&self) -> DiscoverResponse {
        DiscoverResponse {
            node_id: self.node_id,
            address: self.config.advertise.clone(),
            cluster_id: self.metadata.current().cluster_id.clone(),
            encoder: Some(self.encoder_status()),
            zone: self.config.zone.clone(),
            // A replica that cannot say is not one to form a cluster with.
            forming: self.metadata_replica.is_initialised().await.unwrap_or(true),
        }
    }

    /// For the cluster status.
    pub(crate) fn status(&self) -> GetNodeStatusResponse {
        let node = NodeStatus {
            node_id: self.node_id,
            address: self.config.advertise.clone(),
            reachable: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime: prost_types::Duration::try_from(self.started.elapsed()).ok(),
            encoder: Some(self.encoder_status()),
            zone: self.config.zone.clone(),
            ..NodeStatus::default()
        };
        let metadata = StateStats { digest: digest_of(&self.metadata.current()), ..StateStats::default() };
        let mut replicas = vec![self.replica_state(&self.metadata_replica.status(), metadata)];
        let mut collections = Vec::new();
        for shard in self.shards() {
            let stats = shard.state.stats();
            collections.extend(stats.collections.iter().map(|&(collection_uid, image_count)| CollectionCount {
                group_id: shard.replica.group(),
                collection_uid,
                image_count,
            }));
            replicas.push(self.replica_state(&shard.replica.status(), stats));
        }
        GetNodeStatusResponse { node: Some(node), replicas, collections }
    }

    /// Whom this node takes for the leaders of its groups.
    pub(crate) fn leader_hints(&self) -> Vec<LeaderHint> {
        let metadata = std::iter::once(self.metadata_replica.status());
        let hint = |state: GroupState| LeaderHint {
            group_id: state.group,
            leader_node_id: state.leader.unwrap_or(0),
            term: state.term,
        };
        metadata.chain(self.shards().iter().map(|s| s.replica.status())).map(hint).collect()
    }

    fn replica_state(&self, state: &GroupState, stats: StateStats) -> ReplicaState {
        // Counts and digest belong to the index at which they were read.
        let applied_index = if state.group == METADATA_GROUP { state.applied } else { stats.applied };
        let status = ReplicaStatus {
            node_id: self.node_id,
            reachable: true,
            role: role(state.role) as i32,
            last_log_index: state.last_log,
            committed_index: state.committed,
            applied_index,
            image_count: stats.images,
            digest: stats.digest,
            graph_count: stats.graph,
            tail_count: stats.tail,
            tombstone_count: stats.tombstones,
            checkpoint_index: stats.checkpoint,
            received_count: stats.received,
        };
        ReplicaState {
            group_id: state.group,
            term: state.term,
            leader_node_id: state.leader.unwrap_or(0),
            status: Some(status),
            slot_move: stats.slot_move,
        }
    }
}

/// The digest of the whole metadata.
pub(super) fn digest_of(metadata: &internal::Metadata) -> Vec<u8> {
    use prost::Message;
    blake3::hash(&metadata.encode_to_vec()).as_bytes()[..16].to_vec()
}

fn role(role: Role) -> ReplicaRole {
    match role {
        Role::Leader => ReplicaRole::Leader,
        Role::Follower => ReplicaRole::Follower,
        Role::Candidate => ReplicaRole::Candidate,
        Role::Learner => ReplicaRole::Learner,
    }
}
