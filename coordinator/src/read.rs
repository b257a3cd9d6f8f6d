//! Stored images by id, and pictures turned into embeddings.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use futures::future::try_join_all;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::GroupId;
use omma_proto::internal::v1 as node;
use omma_proto::v1::Image;

use crate::access::client_id;
use crate::error::Next;
use crate::leader::{Effect, call_leader};
use crate::node_client::NodeClient;
use crate::routing::{ClusterMap, Collection, Routing};
use crate::scatter::fan_out::Freshness;
use crate::scatter::hedge::HedgeDelay;
use crate::scatter::patience::Patience;
use crate::scatter::replica::{by_preference, call_replica};

/// Those of the images that exist, in the order of `ids`; an id that is asked for twice is answered twice.
pub(crate) async fn images(
    routing: &Routing,
    hedge: &HedgeDelay,
    collection: &Collection,
    ids: &[String],
    include_embedding: bool,
    freshness: &Freshness,
    deadline: Deadline,
) -> Result<Vec<Image>, ApiError> {
    let read = |map: Arc<ClusterMap>| async move {
        images_by(&map, routing, hedge, collection, ids, include_embedding, freshness, deadline).await
    };
    routing.following_slots(freshness.min_epoch(), deadline, read).await
}

#[allow(clippy::too_many_arguments)]
async fn images_by(
    map: &ClusterMap,
    routing: &Routing,
    hedge: &HedgeDelay,
    collection: &Collection,
    ids: &[String],
    include_embedding: bool,
    freshness: &Freshness,
    deadline: Deadline,
) -> Result<Vec<Image>, ApiError> {
    let mut by_group: BTreeMap<GroupId, Vec<String>> = BTreeMap::new();
    for id in ids {
        by_group.entry(map.group_of(id)).or_default().push(id.clone());
    }
    let calls = by_group.iter().map(|(&group, ids)| async move {
        let call = |node: Arc<NodeClient>, map: &ClusterMap| {
            let request = node::GetImagesRequest {
                target: Some(collection.target(group, map)),
                ids: ids.clone(),
                include_embedding,
                consistency: freshness.consistency as i32,
                min_applied_index: freshness.min_applied_index(group),
                client: client_id(),
            };
            async move { node.get_images(deadline, request).await }
        };
        match freshness.needs_leader() {
            true => call_leader(routing, group, Effect::Read, deadline, call).await,
            false => call_replica(routing, group, Patience::alone(deadline), hedge, call).await,
        }
    });
    let found: HashMap<String, Image> =
        try_join_all(calls).await?.into_iter().flat_map(|a| a.images).map(|i| (i.id.clone(), i)).collect();
    Ok(ids.iter().filter_map(|id| found.get(id).cloned()).collect())
}

/// Turns a picture into an embedding at the least busy node; another one is asked if it cannot.
pub(crate) async fn encode(
    routing: &Routing,
    collection: &Collection,
    picture: Bytes,
    deadline: Deadline,
) -> Result<node::EncodePictureResponse, ApiError> {
    let map = routing.map().await?;
    let clients = map.nodes.values().filter_map(|n| routing.client(&n.address).ok()).collect();
    let mut last = ApiError::new(Reason::NodeUnreachable, "no shard node is known that could encode the picture");
    let nodes = by_preference(clients);
    // A second time, too, while nobody can be reached: the call that comes at the end of a connection's life fails with it.
    for (n, client) in nodes.iter().chain(&nodes).enumerate() {
        if n >= nodes.len() && last.reason != Reason::NodeUnreachable {
            break;
        }
        let request = node::EncodePictureRequest {
            picture: picture.clone(),
            vector_space_id: collection.space_id().to_owned(),
            client: client_id(),
        };
        match client.encode_picture(deadline, request).await {
            Ok(answer) if answer.embedding.len() == collection.dimension() * 4 => return Ok(answer),
            Ok(answer) => {
                let text = format!(
                    "node {} encodes to {} numbers; the collection's dimension is {}",
                    client.address(),
                    answer.embedding.len() / 4,
                    collection.dimension()
                );
                last = ApiError::new(Reason::VectorSpaceMismatch, text);
            }
            Err(e) if e.next == Next::Stop && !another_may(e.error.reason) => return Err(e.error),
            Err(e) => last = e.error,
        }
    }
    Err(last)
}

/// Whether a refusal speaks of the node rather than of the picture.
fn another_may(reason: Reason) -> bool {
    matches!(reason, Reason::Overloaded | Reason::NoEncoder | Reason::VectorSpaceMismatch | Reason::Internal)
}
