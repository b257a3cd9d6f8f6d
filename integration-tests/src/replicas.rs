//! What each replica has, asked of each shard node itself, past the coordinator.

use std::collections::{BTreeMap, HashMap, HashSet};

use anyhow::{Context, Result, ensure};
use omma_proto::internal::v1::metadata_service_client::MetadataServiceClient;
use omma_proto::internal::v1::placement_service_client::PlacementServiceClient;
use omma_proto::internal::v1::shard_service_client::ShardServiceClient;
use omma_proto::internal::v1::{
    GetImagesRequest, GetMetadataRequest, Metadata, ObserveNodeRequest, ObserveNodeResponse, Target,
};
use omma_proto::v1::{Consistency, GetClusterStatusResponse, NodeState, NodeStatus};

use crate::client::channel;
use crate::cluster::Cluster;
use crate::placement::group_of;

/// Ids per request.
const BATCH: usize = 500;

/// What a node says of itself and its replicas to the metadata leader.
///
/// # Errors
/// The call's.
pub async fn observed(cluster: &Cluster, node: usize) -> Result<ObserveNodeResponse> {
    let mut client = PlacementServiceClient::new(channel(cluster.shard_address(node)?)?);
    Ok(client.observe_node(ObserveNodeRequest {}).await?.into_inner())
}

/// What the status says of node `node` of the cluster.
///
/// # Errors
/// If it is not in there.
pub fn node_status(cluster: &Cluster, status: &GetClusterStatusResponse, node: usize) -> Result<NodeStatus> {
    let address = cluster.shard_address(node)?;
    // One that replaced another is listed beside it for a while.
    let at = |n: &&NodeStatus| n.address == address && n.state() != NodeState::Replaced;
    status.nodes.iter().find(at).cloned().with_context(|| format!("{address} is not in the status"))
}

/// A node's copy of the metadata.
///
/// # Errors
/// The call's.
pub async fn metadata_of(cluster: &Cluster, node: usize) -> Result<Metadata> {
    let mut client = MetadataServiceClient::new(channel(cluster.shard_address(node)?)?);
    let answer = client.get_metadata(GetMetadataRequest::default()).await?.into_inner();
    answer.metadata.with_context(|| format!("shard node {node} has no metadata"))
}

/// Which of `ids` some replica lacks: asked of every replica of every group, whatever it has applied by itself.
///
/// # Errors
/// If a replica cannot be asked, or there is no such collection.
pub async fn missing(cluster: &Cluster, collection: &str, ids: &[String]) -> Result<Vec<String>> {
    let running = (0..cluster.nodes()).filter(|n| cluster.shard_process(*n).is_ok_and(|p| p.pid().is_some()));
    let metadata = metadata_of(cluster, running.clone().next().context("no node runs")?).await?;
    let by_group = grouped(&metadata, ids)?;
    let mut lost = Vec::new();
    for node in running {
        let node_id = metadata.nodes.iter().find(|n| cluster.shard_address(node).is_ok_and(|a| a == n.address));
        let node_id = node_id.with_context(|| format!("shard node {node} is not in the metadata"))?.node_id;
        for (&group_id, ids) in &by_group {
            let group = metadata.groups.iter().find(|g| g.group_id == group_id).context("a group vanished")?;
            if !group.replicas.contains(&node_id) {
                continue;
            }
            let target = target(&metadata, collection, group_id)?;
            let has = held_by(cluster, node, &target, ids).await?;
            let gone = ids.iter().filter(|id| !has.contains(id.as_str()));
            lost.extend(gone.map(|id| format!("{id} (group {group_id}, shard node {node})")));
        }
    }
    Ok(lost)
}

fn grouped<'i>(metadata: &Metadata, ids: &'i [String]) -> Result<BTreeMap<u32, Vec<&'i String>>> {
    let mut groups: BTreeMap<u32, Vec<&String>> = BTreeMap::new();
    for id in ids {
        groups.entry(group_of(metadata, id)?.group_id).or_default().push(id);
    }
    Ok(groups)
}

fn target(metadata: &Metadata, collection: &str, group_id: u32) -> Result<Target> {
    let entries = metadata.collections.iter().filter_map(|e| e.collection.as_ref());
    let by_name: HashMap<_, _> = entries.map(|c| (c.name.as_str(), c)).collect();
    let collection = by_name.get(collection).with_context(|| format!("no collection {collection} in the metadata"))?;
    let space = collection.vector_space.clone().unwrap_or_default();
    Ok(Target {
        group_id,
        collection_uid: collection.uid,
        dimension: space.dimension,
        vector_space_id: space.id,
        epoch: metadata.epoch,
        slots_index: 0,
        quantization: collection.quantization,
    })
}

async fn held_by(cluster: &Cluster, node: usize, target: &Target, ids: &[&String]) -> Result<HashSet<String>> {
    let mut client = ShardServiceClient::new(channel(cluster.shard_address(node)?)?);
    let mut has = HashSet::new();
    for batch in ids.chunks(BATCH) {
        let request = GetImagesRequest {
            target: Some(target.clone()),
            ids: batch.iter().map(|&id| id.clone()).collect(),
            include_embedding: true,
            consistency: Consistency::Any.into(),
            min_applied_index: 0,
            client: 0,
        };
        let answer = client.get_images(request).await.with_context(|| format!("asking shard node {node}"))?;
        for image in answer.into_inner().images {
            let numbers = image.embedding.map_or(0, |e| e.values.len());
            ensure!(numbers == target.dimension as usize, "{} has an embedding of {numbers} numbers", image.id);
            has.insert(image.id);
        }
    }
    Ok(has)
}
