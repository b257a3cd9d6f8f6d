//! `CollectionService`: proposals to the metadata leader; a deletion goes through every shard group.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::try_join_all;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::METADATA_GROUP;
use omma_proto::internal::v1 as node;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::metadata_outcome::Outcome;
use omma_proto::internal::v1::{MetadataCommand, MetadataRefusal};
use omma_proto::v1 as pb;
use omma_proto::v1::collection_service_server::CollectionService;
use tonic::{Request, Response, Status};

use super::{Api, Coordinator, caller_of, status, validate};
use crate::access::Caller;
use crate::leader::{Effect, call_leader};
use crate::routing::Collection;
use crate::routing::cache::unknown_collection;
use crate::write::request_id_or_new;

const DEFAULT_PAGE: usize = 100;
const MAX_PAGE: usize = 1000;
/// Begins every page token, so that other texts are told apart.
const TOKEN_PREFIX: &str = "c1.";

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

/// What a metadata command did.
enum Proposed {
    Done(pb::Collection),
    Refused(MetadataRefusal),
}

async fn propose(coordinator: &Coordinator, command: Command, deadline: Deadline) -> Result<Proposed, ApiError> {
    let command = MetadataCommand { command: Some(command) };
    let answer = call_leader(&coordinator.routing, METADATA_GROUP, Effect::Write, deadline, |node, _| {
        let request = node::ProposeMetadataRequest { command: Some(command.clone()) };
        async move { node.propose_metadata(deadline, request).await }
    })
    .await?;
    match answer.outcome.and_then(|o| o.outcome) {
        Some(Outcome::Done(collection)) => Ok(Proposed::Done(collection)),
        Some(Outcome::Refusal(refusal)) => {
            Ok(Proposed::Refused(MetadataRefusal::try_from(refusal).unwrap_or_default()))
        }
        None => Err(ApiError::new(Reason::Internal, "the metadata leader answered without an outcome")),
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
            let most = omma_common::limits::MAX_COLLECTIONS;
            return ApiError::new(
                Reason::TooManyCollections,
                format!("the cluster has {most} collections, as many as it may"),
            )
            .with("limit", most);
        }
        MetadataRefusal::NoCluster => (Reason::ClusterForming, "the cluster is not formed yet".to_owned()),
        MetadataRefusal::Invalid => {
            (Reason::InvalidArgument, format!("the metadata leader refused collection {collection:?} as invalid"))
        }
        MetadataRefusal::Unspecified | MetadataRefusal::ClusterExists => (
            Reason::Internal,
            format!("the metadata leader refused for a reason that makes no sense here: {refusal:?}"),
        ),
    };
    ApiError::new(reason, text).with("collection", collection)
}

async fn create(
    coordinator: Arc<Coordinator>,
    request: pb::CreateCollectionRequest,
    deadline: Deadline,
) -> Result<pb::CreateCollectionResponse, ApiError> {
    let name = request.name;
    validate::collection_name("name", &name)?;
    validate::request_id(&request.request_id)?;
    let encoder_space = coordinator.routing.map().await?.encoder_space.clone();
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
    let size = page_size(request.page_size)?;
    let after = read_token(&request.page_token)?;
    coordinator.routing.refresh_exactly(deadline).await?;
    let map = coordinator.routing.map().await?;
    let visible = |c: &&Arc<Collection>| !c.deleting && c.entry.name > after && caller.sees(&c.entry.name);
    let mut shown = map.collections.values().filter(visible).map(|c| &c.entry);
    let collections: Vec<_> = shown.by_ref().take(size).cloned().collect();
    let next_page_token = match (shown.next(), collections.last()) {
        (Some(_), Some(last)) => write_token(&last.name),
        _ => String::new(),
    };
    Ok(pb::ListCollectionsResponse { collections, next_page_token })
}

fn page_size(asked: i32) -> Result<usize, ApiError> {
    match asked {
        0 => Ok(DEFAULT_PAGE),
        n => usize::try_from(n)
            .map(|n| n.min(MAX_PAGE))
            .map_err(|_| ApiError::field("page_size", "must not be negative")),
    }
}

/// A page token says after which name to go on; hexadecimal, so that nobody takes it for a name.
fn write_token(last: &str) -> String {
    last.bytes().fold(TOKEN_PREFIX.to_owned(), |token, byte| format!("{token}{byte:02x}"))
}

fn read_token(token: &str) -> Result<String, ApiError> {
    if token.is_empty() {
        return Ok(String::new());
    }
    let bytes = token.strip_prefix(TOKEN_PREFIX).map(str::as_bytes).unwrap_or_default().as_chunks::<2>();
    let digit = |byte: u8| (byte as char).to_digit(16).map(|d| d as u8);
    let digits = |pair: &[u8; 2]| Some(digit(pair[0])? << 4 | digit(pair[1])?);
    let name = bytes.0.iter().map(digits).collect::<Option<Vec<u8>>>().and_then(|b| String::from_utf8(b).ok());
    name.filter(|name| !name.is_empty() && bytes.1.is_empty())
        .ok_or_else(|| ApiError::field("page_token", "is not one that ListCollections returned"))
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
    let map = coordinator.routing.map().await?;
    let (routing, collection) = (&coordinator.routing, &collection);
    try_join_all(map.groups.keys().map(|&group| {
        call_leader(routing, group, Effect::Write, deadline, move |node, epoch| {
            let request = node::DropCollectionRequest { target: Some(collection.target(group, epoch)) };
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
    let remove = Command::RemoveCollection(node::RemoveCollection { collection_uid: collection.entry.uid });
    match propose(&coordinator, remove, deadline).await? {
        Proposed::Done(_) | Proposed::Refused(MetadataRefusal::CollectionNotFound) => {}
        Proposed::Refused(refusal) => return Err(refused(refusal, &name)),
    }
    // The cache forgets it soon by itself; until then the groups refuse.
    let soon = deadline.within(Duration::from_secs(1));
    if let Err(error) = routing.refresh_exactly(soon).await {
        tracing::debug!(%error, "the deleted collection is still in the cache");
    }
    Ok(pb::DeleteCollectionResponse {})
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
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn page_tokens_round_trip(name in "[a-z0-9][a-z0-9_-]{0,63}") {
            let token = write_token(&name);
            prop_assert_eq!(read_token(&token).unwrap(), name);
        }

        #[test]
        fn odd_tokens_are_refused_without_a_panic(token in "\\PC{0,20}") {
            if let Ok(name) = read_token(&token) {
                prop_assert!(token.is_empty() || write_token(&name).eq_ignore_ascii_case(&token));
            }
        }
    }

    #[test]
    fn tokens_that_are_none() {
        for bad in ["x", "c1.", "c1.6", "c1.zz", "c1.ff", "c2.61", "c1.+1"] {
            assert!(read_token(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn pages_are_bounded() {
        assert_eq!((page_size(0).unwrap(), page_size(7).unwrap(), page_size(5000).unwrap()), (100, 7, 1000));
        assert!(page_size(-1).is_err());
    }

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
