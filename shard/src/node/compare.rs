//! Compares the replicas of a group, in the background. Each group's leader does it.

use std::collections::BTreeMap;
use std::time::Duration;

use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_proto::internal::v1::DigestMark;

use super::{Node, peers};
use crate::group::{Replica, Role};
use crate::images::digests::{Mark, compare};
use crate::metrics::{DIGEST_MISMATCHES, DIGESTS_COMPARED};

const EVERY: Duration = Duration::from_secs(3);

/// Whether a group's replica on a node differed from this one when they were last compared.
pub(super) type Comparisons = BTreeMap<(GroupId, NodeId), bool>;

impl Node {
    /// Digests of this node's replica of a group; `None` if it has none. The metadata's indexes are its versions.
    pub(crate) async fn digests(&self, group: GroupId) -> Option<Vec<Mark>> {
        if group == METADATA_GROUP {
            let metadata = self.metadata.current();
            return Some(vec![Mark { applied: metadata.version, digest: super::describe::digest_of(&metadata) }]);
        }
        let shard = self.shard(group)?;
        Some(super::blocking(move || shard.state.digests()).await)
    }
}

/// For as long as the node lives.
pub(super) async fn compare_replicas(node: &Node) {
    loop {
        tokio::time::sleep(EVERY).await;
        let led: Vec<Replica> = node.led();
        let groups: Vec<GroupId> = led.iter().map(Replica::group).collect();
        node.comparisons.lock().retain(|(group, _), _| groups.contains(group));
        for replica in led {
            compare_group(node, &replica).await;
        }
    }
}

impl Node {
    fn led(&self) -> Vec<Replica> {
        let shards = self.shards().into_iter().map(|shard| shard.replica);
        let all = std::iter::once(self.metadata_replica.clone()).chain(shards);
        all.filter(|replica| replica.status().role == Role::Leader).collect()
    }
}

async fn compare_group(node: &Node, replica: &Replica) {
    let (group, state) = (replica.group(), replica.status());
    let members: Vec<NodeId> = state.voters.iter().chain(&state.learners).copied().collect();
    node.comparisons.lock().retain(|(of, peer), _| *of != group || members.contains(peer));
    for peer in members.into_iter().filter(|peer| *peer != node.node_id) {
        let Some(address) = node.addresses.get(peer) else { continue };
        // One that does not answer is no different one; its absence shows elsewhere.
        let Ok(theirs) = peers::digests(&node.dialer, &address, group).await else { continue };
        // After theirs: so the newest of theirs is more likely among ours.
        let Some(ours) = node.digests(group).await else { return };
        let theirs: Vec<Mark> = theirs.into_iter().map(mark).collect();
        if let Some((index, equal)) = compare(&ours, &theirs) {
            note(node, group, peer, index, equal);
        }
    }
}

fn note(node: &Node, group: GroupId, peer: NodeId, index: u64, equal: bool) {
    let labels = [&*group.to_string(), &*peer.to_string()];
    DIGESTS_COMPARED.with(&labels).inc();
    // Visible from the first comparison on.
    DIGEST_MISMATCHES.with(&labels).add(u64::from(!equal));
    let before = node.comparisons.lock().insert((group, peer), !equal);
    // Once, not every time.
    if !equal && before != Some(true) {
        tracing::error!(
            group,
            peer,
            index,
            "A REPLICA DIFFERS from its leader's at the same applied index: stop its node, keep its data for a report, \
             and let it join again with an empty data folder"
        );
    }
}

fn mark(sent: DigestMark) -> Mark {
    Mark { applied: sent.applied_index, digest: sent.digest.to_vec() }
}
