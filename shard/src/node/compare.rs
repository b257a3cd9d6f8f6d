//! Compares the replicas of a group, in the background. Each group's leader tells who differs from it; each replica finds
//! out whether it differs from most.

use std::collections::BTreeMap;
use std::time::Duration;

use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_proto::internal::v1::DigestMark;

use super::{Node, peers};
use crate::group::{Replica, Role};
use crate::images::digests::{Mark, compare, outvoted};
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
        let replicas: Vec<Replica> = std::iter::once(node.metadata_replica.clone())
            .chain(node.shards().into_iter().map(|shard| shard.replica))
            .collect();
        let led = |group: &GroupId| replicas.iter().any(|r| r.group() == *group && leads(r));
        node.comparisons.lock().retain(|(group, _), _| led(group));
        for replica in &replicas {
            compare_group(node, replica).await;
        }
    }
}

fn leads(replica: &Replica) -> bool {
    replica.status().role == Role::Leader
}

async fn compare_group(node: &Node, replica: &Replica) {
    let (group, state) = (replica.group(), replica.status());
    let members: Vec<NodeId> = state.voters.iter().chain(&state.learners).copied().collect();
    node.comparisons.lock().retain(|(of, peer), _| *of != group || members.contains(peer));
    let mut all = Vec::new();
    for peer in members.iter().copied().filter(|peer| *peer != node.node_id) {
        let Some(address) = node.addresses.get(peer) else { continue };
        // One that does not answer is no different one; its absence shows elsewhere.
        let Ok(said) = peers::digests(&node.dialer, &address, group).await else { continue };
        node.without_room.lock().insert(peer, said.without_room);
        all.push((peer, said.marks.into_iter().map(mark).collect::<Vec<Mark>>()));
    }
    // After theirs: so the newest of theirs is more likely among ours.
    let Some(ours) = node.digests(group).await else { return };
    for (peer, theirs) in all.iter().filter(|_| leads(replica)) {
        if let Some((index, equal)) = compare(&ours, theirs) {
            note(node, group, *peer, index, equal);
        }
    }
    // Each replica finds out by itself whether it is the one that is wrong. The metadata has no digest of its own.
    let theirs: Vec<Vec<Mark>> = all.into_iter().map(|(_, marks)| marks).collect();
    if let Some(index) = outvoted(&ours, &theirs, members.len()).filter(|_| group != METADATA_GROUP) {
        let reason =
            format!("at applied index {index} its digest is another than that of most replicas of group {group}");
        node.host.note_damage(group, reason);
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
            "A REPLICA DIFFERS from its leader's at the same applied index. The one that most others differ from is built \
             again; where there are only two, stop the wrong one's node and let it join again with an empty data folder"
        );
    }
}

fn mark(sent: DigestMark) -> Mark {
    Mark { applied: sent.applied_index, digest: sent.digest.to_vec() }
}
