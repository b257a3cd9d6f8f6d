//! Finishes deletions of collections whose coordinator died half-way. The metadata leader does it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::{Metadata, MetadataCommand, RemoveCollection, Target};

use super::{Node, peers, placement};
use crate::group::Role;

const TICK: Duration = Duration::from_secs(2);
/// A coordinator that lives is done by then.
const PATIENCE: Duration = Duration::from_secs(10);

/// For as long as the node lives.
pub(super) async fn finish_deletions(node: &Node) {
    let mut first_seen: HashMap<u64, Instant> = HashMap::new();
    loop {
        tokio::time::sleep(TICK).await;
        let metadata = node.metadata.current();
        let deleting: Vec<u64> = metadata
            .collections
            .iter()
            .filter(|e| e.deleting)
            .filter_map(|e| e.collection.as_ref().map(|c| c.uid))
            .collect();
        first_seen.retain(|uid, _| deleting.contains(uid));
        for uid in deleting {
            let seen = *first_seen.entry(uid).or_insert_with(Instant::now);
            if seen.elapsed() > PATIENCE && node.metadata_replica.status().role == Role::Leader {
                match finish(node, &metadata, uid).await {
                    Ok(()) => tracing::info!(collection_uid = uid, "finished a deletion that had been cut off"),
                    Err(reason) => tracing::warn!(collection_uid = uid, %reason, "a deletion has to wait"),
                }
            }
        }
    }
}

async fn finish(node: &Node, metadata: &Metadata, uid: u64) -> Result<(), String> {
    for group in &metadata.groups {
        let target =
            Target { group_id: group.group_id, collection_uid: uid, epoch: metadata.epoch, ..Target::default() };
        drop_in_group(node, metadata, &group.replicas, target).await?;
    }
    // Refused if groups have been added meanwhile: then all are told again.
    let last_group_id = metadata.groups.iter().map(|g| g.group_id).max().unwrap_or_default();
    let remove = RemoveCollection { collection_uid: uid, last_group_id };
    placement::propose(node, MetadataCommand { command: Some(Command::RemoveCollection(remove)) }).await
}

/// Tries each replica: one of them leads.
async fn drop_in_group(own: &Node, metadata: &Metadata, replicas: &[u64], target: Target) -> Result<(), String> {
    let mut last = format!("group {} has no replicas", target.group_id);
    for node in metadata.nodes.iter().filter(|n| replicas.contains(&n.node_id)) {
        match peers::drop_collection(&own.dialer, &node.address, target.clone()).await {
            Ok(()) => return Ok(()),
            Err(status) => last = format!("group {}: {}", target.group_id, status.message()),
        }
    }
    Err(last)
}
