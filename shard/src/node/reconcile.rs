//! Makes this node what the cluster map says: which replicas it runs, where its peers are.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1::{Group, Metadata};

use super::{Node, NodeError};
use crate::group::state_machine::StateError;
use crate::metadata::concerns;

/// What failed is tried again this often.
const TICK: Duration = Duration::from_millis(500);
/// A new group is begun by its first replica; if that is gone, by any after this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Follows the metadata for as long as the node lives.
pub(super) async fn follow(node: &Node) {
    let mut changes = node.metadata.watch();
    let mut first_seen: HashMap<GroupId, Instant> = HashMap::new();
    loop {
        let metadata = changes.borrow_and_update().clone();
        for peer in &metadata.nodes {
            node.addresses.set(peer.node_id, peer.address.clone());
        }
        node.abandon_damaged(&metadata).await;
        for group in metadata.groups.iter().filter(|g| concerns(g, node.node_id)) {
            let seen = *first_seen.entry(group.group_id).or_insert_with(Instant::now);
            if let Err(error) = run_replica(node, &metadata, group, seen).await {
                if let NodeError::State(damage @ StateError::Damaged { .. }) = &error {
                    node.host.note_damage(group.group_id, damage.to_string());
                }
                tracing::error!(group = group.group_id, %error, "a replica does not run; trying again");
            }
        }
        node.remove_strays(&metadata).await;
        // Nothing is lost by a change that is noticed a tick later.
        let _ = tokio::time::timeout(TICK, changes.changed()).await;
    }
}

async fn run_replica(node: &Node, metadata: &Metadata, group: &Group, seen: Instant) -> Result<(), NodeError> {
    let shard = node.start_shard(group.group_id).await?;
    // A group whose replicas have moved began long ago; new members are told of it by its leader.
    let founding = group.finished_moves == 0 && group.replicas.contains(&node.node_id);
    let my_turn = group.replicas.first() == Some(&node.node_id) || seen.elapsed() > PATIENCE;
    if founding && my_turn && !shard.replica.is_initialised().await? {
        shard.replica.initialise(&members(metadata, group)).await?;
    }
    Ok(())
}

/// All nodes that begin a group must name the same members: this is a function of the first placement alone.
fn members(metadata: &Metadata, group: &Group) -> Vec<(NodeId, String)> {
    let address = |id: &NodeId| metadata.nodes.iter().find(|n| n.node_id == *id).map(|n| n.address.clone());
    group.replicas.iter().map(|id| (*id, address(id).unwrap_or_default())).collect()
}
