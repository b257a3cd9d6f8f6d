//! `CollectionService`: proposals to the metadata leader; a deletion goes through every shard group.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::try_join_all;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::GroupId;
use omma_common::limits::MAX_COLLECTIONS;
use omma_proto::internal::v1 as node;
use omma_proto::internal::v1::MetadataRefusal;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::v1 as pb;
use omma_proto::v1::collection_service_server::CollectionService;
use tonic::{Request, Response, Status};

use super::propose::{self, Proposed, propose};
use super::{Api, Coordinator, caller_of, pages, status, validate};
use crate::access::Caller;
use crate::leader::{Effect, call_leader};
use crate::routing::Collection;
use crate::routing::cache::unknown_collection;
use crate::write::request_id_or_new;

#[tonic::async_trait]
impl CollectionService for Api {
    async fn create_collection(
        &self,
        request: Request<pb::CreateCollectionRequest>,
    ) -> Result<Response<pb::CreateCollectionResponse>, Status> {
        self.unary("CreateCollection", request, create).await
    }

    async fn get_collection(
        &self,
        request: Request<pb::GetCollectionRequest>,
    ) -> Result<Response<pb::GetCollectionResponse>, Status> {
        self.unary("GetCollection", request, get).await
    }

    async fn list_collections(
        &self,
        request: Request<pb::ListCollectionsRequest>,
    ) -> Result<Response<pb::ListCollectionsResponse>, Status> {
        let caller = caller_of(&request)?;
        self.unary("ListCollections", request, |c, request, deadline| list(c, caller, request, deadline)).await
    }

    async fn delete_collection(
        &self,
        request: Request<pb::DeleteCollectionRequest>,
    ) -> Result<Response<pb::DeleteCollectionResponse>, Status> {
        self.unary("DeleteCollection", request, delete).await
    }
}

/// What a refusal means to a client who named `collection`.
fn refused(refusal: MetadataRefusal, collection: &str) -> ApiError {
    let (reason, text) = match refusal {
        MetadataRefusal::CollectionExists => (Reason::CollectionExists, format!("collection {collection:?} exists")),
        MetadataRefusal::CollectionNotFound => return unknown_collection(collection),
        MetadataRefusal::CollectionDeleting => {
            (Reason::CollectionDeleting, format!("collection {collection:?} is still being deleted"))
        }
        MetadataRefusal::TooManyCollections => {
            return too_many(MAX_COLLECTIONS);
        }
        MetadataRefusal::NoCluster => (Reason::ClusterForming, "the cluster is not formed yet".to_owned()),
        MetadataRefusal::Invalid => {
            (Reason::InvalidArgument, format!("the metadata leader refused collection {collection:?} as invalid"))
        }
        other => return propose::no_sense(other),
    };
    ApiError::new(reason, text).with("collection", collection)
}

fn too_many(most: usize) -> ApiError {
    let text = format!("the cluster has {most} collections, as many as it may");
    ApiError::new(Reason::TooManyCollections, text).over("max-collections", most)
}

async fn create(
    coordinator: Arc<Coordinator>,
    request: pb::CreateCollectionRequest,
    deadline: Deadline,
) -> Result<pb::CreateCollectionResponse, ApiError> {
    let name = request.name;
    validate::collection_name("name", &name)?;
    validate::request_id(&request.request_id)?;
    validate::quantization(request.quantization)?;
    let map = coordinator.routing.map().await?;
    let most = coordinator.limits.sizes.max_collections;
    // The metadata group counts exactly, up to its own bound: a retry of what was created must succeed there.
    if most < MAX_COLLECTIONS && map.collections.len() >= most && !map.collections.contains_key(&name) {
        return Err(too_many(most));
    }
    let encoder_space = map.encoder_space.clone();
    let vector_space = match request.vector_space {
        Some(space) => {
            validate::vector_space(&space, encoder_space.as_ref())?;
            space
        }
        None => encoder_space.ok_or_else(|| {
            ApiError::new(Reason::NoEncoder, "the cluster has no encoder: give the collection a vector_space")
        })?,
    };
    let create_time = prost_types::Timestamp::from(SystemTime::now());
    let command = Command::CreateCollection(node::CreateCollection {
        name: name.clone(),
        vector_space: Some(vector_space),
        create_time: Some(create_time),
        request_id: request_id_or_new(&request.request_id),
        quantization: request.quantization,
    });
    match propose(&coordinator, command, deadline).await? {
        Proposed::Refused(refusal) => Err(refused(refusal, &name)),
        Proposed::Done(collection) => {
            // Only a convenience: requests that do not find it in the cache look again.
            if let Err(error) = coordinator.routing.refresh_exactly(deadline).await {
                tracing::debug!(%error, "the new collection is not in the cache yet");
            }
            Ok(pb::CreateCollectionResponse { collection: Some(collection) })
        }
    }
}

async fn get(
    coordinator: Arc<Coordinator>,
    request: pb::GetCollectionRequest,
    deadline: Deadline,
) -> Result<pb::GetCollectionResponse, ApiError> {
    validate::collection_name("name", &request.name)?;
    coordinator.routing.refresh_exactly(deadline).await?;
    let map = coordinator.routing.map().await?;
    let collection = map.collection(&request.name).ok_or_else(|| unknown_collection(&request.name))?;
    let nodes = status::ask_nodes(&coordinator, &map).await;
    let leader = |group| coordinator.routing.leader(group).and_then(|l| l.node_id);
    let image_count = status::image_count(&map, &nodes, collection.entry.uid, leader)?;
    Ok(pb::GetCollectionResponse { collection: Some(pb::Collection { image_count, ..collection.entry.clone() }) })
}

/// Of the collections that the caller may see.
async fn list(
    coordinator: Arc<Coordinator>,
    caller: Arc<Caller>,
    request: pb::ListCollectionsRequest,
    deadline: Deadline,
) -> Result<pb::ListCollectionsResponse, ApiError> {
    let size = pages::size(request.page_size)?;
    let after = pages::read_token("ListCollections", &request.page_token)?;
    coordinator.routing.refresh_exactly(deadline).await?;
    let map = coordinator.routing.map().await?;
    let visible = |c: &&Arc<Collection>| !c.deleting && c.entry.name > after && caller.sees(&c.entry.name);
    let mut shown = map.collections.values().filter(visible).map(|c| &c.entry);
    let collections: Vec<_> = shown.by_ref().take(size).cloned().collect();
    let next_page_token = match (shown.next(), collections.last()) {
        (Some(_), Some(last)) => pages::write_token(&last.name),
        _ => String::new(),
    };
    Ok(pb::ListCollectionsResponse { collections, next_page_token })
}

async fn delete(
    coordinator: Arc<Coordinator>,
    request: pb::DeleteCollectionRequest,
    deadline: Deadline,
) -> Result<pb::DeleteCollectionResponse, ApiError> {
    let name = request.name;
    validate::collection_name("name", &name)?;
    let mark = Command::MarkCollectionDeleting(node::MarkCollectionDeleting { name: name.clone() });
    let collection = match propose(&coordinator, mark, deadline).await? {
        Proposed::Done(entry) => Collection { entry, deleting: true },
        // An earlier call began it and did not end it.
        Proposed::Refused(MetadataRefusal::CollectionDeleting) => being_deleted(&coordinator, &name, deadline).await?,
        Proposed::Refused(refusal) => return Err(refused(refusal, &name)),
    };
    drop_everywhere(&coordinator, &collection, deadline).await?;
    // The cache forgets it soon by itself; until then the groups refuse.
    let soon = deadline.within(Duration::from_secs(1));
    if let Err(error) = coordinator.routing.refresh_exactly(soon).await {
        tracing::debug!(%error, "the deleted collection is still in the cache");
    }
    Ok(pb::DeleteCollectionResponse {})
}

/// Has all shard groups drop the collection, and ends the deletion. A group that is added meanwhile may have been given
/// some of its images: then it is told too.
async fn drop_everywhere(
    coordinator: &Arc<Coordinator>,
    collection: &Collection,
    deadline: Deadline,
) -> Result<(), ApiError> {
    let routing = &coordinator.routing;
    let mut told = BTreeSet::new();
    loop {
        routing.refresh_exactly(deadline).await?;
        let map = routing.map().await?;
        let new: Vec<GroupId> = map.groups.keys().copied().filter(|group| !told.contains(group)).collect();
        try_join_all(new.iter().map(|&group| {
            call_leader(routing, group, Effect::Write, deadline, move |node, map| {
                let request = node::DropCollectionRequest { target: Some(collection.target(group, map)) };
                async move {
                    match node.drop_collection(deadline, request).await {
                        // Dropped by an earlier call.
                        Err(e) if e.error.reason == Reason::CollectionNotFound => Ok(node::DropCollectionResponse {}),
                        answer => answer,
                    }
                }
            })
        }))
        .await?;
        told.extend(new);
        let (collection_uid, last_group_id) = (collection.entry.uid, told.last().copied().unwrap_or_default());
        let remove = Command::RemoveCollection(node::RemoveCollection { collection_uid, last_group_id });
        match propose(coordinator, remove, deadline).await? {
            Proposed::Done(_) | Proposed::Refused(MetadataRefusal::CollectionNotFound) => return Ok(()),
            // Ends with the deadline, if not before: a round goes by only when groups have come.
            Proposed::Refused(MetadataRefusal::StaleEpoch) => {}
            Proposed::Refused(refusal) => return Err(refused(refusal, &collection.entry.name)),
        }
    }
}

async fn being_deleted(coordinator: &Coordinator, name: &str, deadline: Deadline) -> Result<Collection, ApiError> {
    coordinator.routing.refresh_exactly(deadline).await?;
    let map = coordinator.routing.map().await?;
    let entry = map.collections.get(name).filter(|c| c.deleting);
    entry.map(|c| Collection::clone(c)).ok_or_else(|| unknown_collection(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_have_codes() {
        for (refusal, reason) in [
            (MetadataRefusal::CollectionExists, Reason::CollectionExists),
            (MetadataRefusal::CollectionNotFound, Reason::CollectionNotFound),
            (MetadataRefusal::CollectionDeleting, Reason::CollectionDeleting),
            (MetadataRefusal::TooManyCollections, Reason::TooManyCollections),
            (MetadataRefusal::NoCluster, Reason::ClusterForming),
            (MetadataRefusal::Unspecified, Reason::Internal),
        ] {
            assert_eq!(refused(refusal, "c").reason, reason);
        }
    }
}
