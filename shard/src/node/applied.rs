//! Waits until the replicas that answer have applied what their leader has committed. They learn of that with its next
//! message; if it dies before, none of them knows that it counts until another leader is elected, and refuses reads that
//! need it.

use std::time::Duration;

use futures::future::join_all;
use omma_common::ids::{GroupId, METADATA_GROUP};
use omma_proto::internal::v1::{Metadata, Node as Peer, ObserveNodeResponse};
use omma_proto::v1::NodeState;
use tokio::time::{Instant, timeout};

use super::{Node, peers};

/// A node that answers later counts as gone.
const ANSWERS: Duration = Duration::from_millis(250);
/// One that lags for longer is not waited for: writes wait meanwhile.
const MOST: Duration = Duration::from_millis(500);
/// Between two looks; a leader's messages are less frequent.
const BETWEEN: Duration = Duration::from_millis(20);

impl Node {
    /// Returns when all replicas of `group` that answer have applied `index`, or after about [`MOST`].
    pub(super) async fn wait_applied(&self, metadata: &Metadata, group: GroupId, index: u64) {
        let until = Instant::now() + MOST;
        loop {
            let asked = holders(metadata, group).map(|peer| self.seen(peer));
            let seen: Vec<ObserveNodeResponse> = join_all(asked).await.into_iter().flatten().collect();
            if all_applied(&seen, group, index) || Instant::now() > until {
                return;
            }
            tokio::time::sleep(BETWEEN).await;
        }
    }

    async fn seen(&self, peer: &Peer) -> Option<ObserveNodeResponse> {
        match peer.node_id == self.node_id {
            true => Some(self.observe().await),
            false => timeout(ANSWERS, peers::observe(&self.dialer, &peer.address)).await.ok()?.ok(),
        }
    }
}

/// The nodes that have a replica of `group`.
fn holders(metadata: &Metadata, group: GroupId) -> impl Iterator<Item = &Peer> {
    let placed = metadata.groups.iter().find(|g| g.group_id == group);
    let holds = move |id| group == METADATA_GROUP || placed.is_some_and(|g| g.replicas.contains(&id));
    metadata.nodes.iter().filter(move |n| holds(n.node_id) && n.state() != NodeState::Replaced)
}

fn all_applied(seen: &[ObserveNodeResponse], group: GroupId, index: u64) -> bool {
    let replicas = seen.iter().flat_map(|said| &said.replicas).filter(|r| r.group_id == group);
    replicas.into_iter().all(|r| r.applied_index >= index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::{Group, ObservedReplica};

    #[test]
    fn only_replicas_of_the_group_count() {
        let replica = |group_id, applied_index| ObservedReplica { group_id, applied_index, ..Default::default() };
        let seen = |replicas| ObserveNodeResponse { replicas, ..Default::default() };
        let nodes = [seen(vec![replica(0, 9), replica(1, 4)]), seen(vec![replica(0, 7), replica(2, 8)])];
        assert!(all_applied(&nodes, 0, 7) && !all_applied(&nodes, 0, 8));
        assert!(all_applied(&nodes, 2, 8) && all_applied(&nodes, 3, 8));
    }

    #[test]
    fn every_node_holds_the_metadata() {
        let peers = (1..=3).map(|node_id| Peer { node_id, ..Peer::default() }).collect();
        let group = Group { group_id: 1, replicas: vec![1, 3], ..Group::default() };
        let metadata = Metadata { nodes: peers, groups: vec![group], ..Metadata::default() };
        let ids = |group| holders(&metadata, group).map(|n| n.node_id).collect::<Vec<_>>();
        assert_eq!((ids(METADATA_GROUP), ids(1), ids(2)), (vec![1, 2, 3], vec![1, 3], vec![]));
    }
}
