//! `BackupService`: cuts of collections out of shard groups, and images as they were stored back into them.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::future::try_join_all;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::{GroupId, NodeId};
use omma_common::vector;
use omma_proto::internal::v1 as node;
use omma_proto::v1 as pb;
use omma_proto::v1::backup_service_server::BackupService;
use tonic::{Request, Response, Status};

use super::{Api, Coordinator, validate};
use crate::config::Limits;
use crate::leader::{Effect, call_leader};
use crate::routing::{ClusterMap, Collection};
use crate::write::request_id_or_new;

/// Most images of one restoring call.
const MOST_IMAGES: usize = 256;
/// What the length of a stored embedding may differ from one by.
const UNIT: f32 = 1e-3;

#[tonic::async_trait]
impl BackupService for Api {
    async fn begin_backup(
        &self,
        request: Request<pb::BeginBackupRequest>,
    ) -> Result<Response<pb::BeginBackupResponse>, Status> {
        self.unary("BeginBackup", request, begin).await
    }

    async fn read_backup(
        &self,
        request: Request<pb::ReadBackupRequest>,
    ) -> Result<Response<pb::ReadBackupResponse>, Status> {
        self.unary("ReadBackup", request, read).await
    }

    async fn restore_images(
        &self,
        request: Request<pb::RestoreImagesRequest>,
    ) -> Result<Response<pb::RestoreImagesResponse>, Status> {
        self.unary("RestoreImages", request, restore).await
    }
}

/// Which cut of which replica: a coordinator remembers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CutToken {
    node: NodeId,
    group: GroupId,
    cut: u64,
}

impl CutToken {
    fn write(self) -> String {
        format!("{:x}-{:x}-{:x}", self.node, self.group, self.cut)
    }

    fn read(token: &str) -> Result<Self, ApiError> {
        let read = || {
            let mut parts = token.splitn(3, '-');
            let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
            Some(Self { node: number()?, group: GroupId::try_from(number()?).ok()?, cut: number()? })
        };
        read().ok_or_else(|| ApiError::field("cut_token", "is none of BeginBackup's"))
    }
}

/// All cuts at once: they are of nearly the same moment.
async fn begin(
    coordinator: Arc<Coordinator>,
    request: pb::BeginBackupRequest,
    deadline: Deadline,
) -> Result<pb::BeginBackupResponse, ApiError> {
    validate::collection_name("collection", &request.collection)?;
    let (coordinator, wanted) = (&coordinator, &request.group_ids);
    coordinator
        .with_collection(&request.collection, deadline, |collection| async move {
            let map = nothing_moves(coordinator, deadline).await?;
            if let Some(unknown) = wanted.iter().find(|id| !map.groups.contains_key(id)) {
                return Err(ApiError::field("group_ids", format!("names group {unknown}, which there is not")));
            }
            let groups = map.groups.keys().copied().filter(|id| wanted.is_empty() || wanted.contains(id));
            let cuts = try_join_all(groups.map(|group| cut(coordinator, &collection, group, deadline))).await?;
            let after = nothing_moves(coordinator, deadline).await?;
            if after.last_move_id != map.last_move_id {
                return Err(moving());
            }
            Ok(pb::BeginBackupResponse { collection: Some(collection.entry.clone()), map_epoch: map.epoch, cuts })
        })
        .await
}

/// The map, if no slots are on their way: images of those may be in two groups, or in the cut of neither.
async fn nothing_moves(coordinator: &Coordinator, deadline: Deadline) -> Result<Arc<ClusterMap>, ApiError> {
    coordinator.routing.refresh_exactly(deadline).await?;
    let map = coordinator.routing.map().await?;
    if map.slot_moves.is_empty() { Ok(map) } else { Err(moving()) }
}

fn moving() -> ApiError {
    let text = "slots are on their way between shard groups: begin the backup when ListMoves shows none";
    ApiError::new(Reason::SlotsMoved, text)
}

async fn cut(
    coordinator: &Coordinator,
    collection: &Collection,
    group: GroupId,
    deadline: Deadline,
) -> Result<pb::GroupCut, ApiError> {
    let cut = call_leader(&coordinator.routing, group, Effect::Read, deadline, |client, map| {
        let request = node::CutCollectionRequest { target: Some(collection.target(group, map)) };
        async move { client.cut_collection(deadline, request).await }
    })
    .await?;
    let token = CutToken { node: cut.node_id, group, cut: cut.cut_id };
    let (applied_index, image_count) = (cut.applied_index, cut.image_count);
    Ok(pb::GroupCut { group_id: group, applied_index, image_count, cut_token: token.write() })
}

/// The cut, and after which key the page begins.
fn page_of(request: &pb::ReadBackupRequest) -> Result<(CutToken, u64), ApiError> {
    validate::collection_name("collection", &request.collection)?;
    let cut = CutToken::read(&request.cut_token)?;
    let after = match request.page_token.as_str() {
        "" => 0,
        token => token.parse().map_err(|_| ApiError::field("page_token", "is none of ReadBackup's"))?,
    };
    Ok((cut, after))
}

async fn read(
    coordinator: Arc<Coordinator>,
    request: pb::ReadBackupRequest,
    deadline: Deadline,
) -> Result<pb::ReadBackupResponse, ApiError> {
    let (CutToken { node, group, cut }, after) = page_of(&request)?;
    let map = coordinator.routing.map().await?;
    let collection = coordinator.routing.collection(&request.collection, deadline).await?;
    let gone = || ApiError::new(Reason::BackupExpired, "the node that the cut is on is gone: begin the group again");
    let client = coordinator.routing.client(map.address(node).ok_or_else(gone)?)?;
    let target = Some(collection.target(group, &map));
    let read = client.read_cut(deadline, node::ReadCutRequest { target, cut_id: cut, after_key: after }).await;
    let page = read.map_err(|failed| failed.error)?;
    let last = page.records.last().map(|r| r.key.to_string());
    let next_page_token = if page.done { String::new() } else { last.unwrap_or_default() };
    let images = page.records.into_iter().filter_map(|r| r.record).map(image).collect();
    Ok(pb::ReadBackupResponse { images, next_page_token })
}

fn image(record: node::PutRecord) -> pb::BackupImage {
    let node::PutRecord { id, embedding, attributes, content_digest } = record;
    pb::BackupImage { id, embedding: embedding.to_vec(), attributes, content_digest: content_digest.to_vec() }
}

fn check_restore(request: &pb::RestoreImagesRequest) -> Result<(), ApiError> {
    validate::collection_name("collection", &request.collection)?;
    validate::request_id(&request.request_id)?;
    match request.images.len() {
        1..=MOST_IMAGES => Ok(()),
        n => Err(ApiError::field("images", format!("are {n}; 1 to {MOST_IMAGES} are allowed"))),
    }
}

async fn restore(
    coordinator: Arc<Coordinator>,
    request: pb::RestoreImagesRequest,
    deadline: Deadline,
) -> Result<pb::RestoreImagesResponse, ApiError> {
    check_restore(&request)?;
    let pb::RestoreImagesRequest { collection, images, request_id } = request;
    let restored_count = images.len() as u32;
    let request_id = request_id_or_new(&request_id);
    let (coordinator, images, request_id) = (&coordinator, &images, &request_id);
    coordinator
        .with_collection(&collection, deadline, |collection| async move {
            let records = records(images, collection.dimension(), &coordinator.limits)?;
            let (collection, records) = (&collection, &records);
            // What one group did already it answers again.
            let write = |map: Arc<ClusterMap>| async move {
                let mut by_group: BTreeMap<GroupId, Vec<node::PutRecord>> = BTreeMap::new();
                for record in records {
                    by_group.entry(map.group_of(&record.id)).or_default().push(record.clone());
                }
                let writes = by_group.into_iter().map(|(group, records)| {
                    call_leader(&coordinator.routing, group, Effect::Write, deadline, move |client, map| {
                        let target = Some(collection.target(group, map));
                        let (records, request_id) = (records.clone(), request_id.clone());
                        let request = node::ImportRecordsRequest { target, records, request_id };
                        async move { client.import_records(deadline, request).await }
                    })
                });
                try_join_all(writes).await.map(drop)
            };
            coordinator.routing.following_slots(0, deadline, write).await
        })
        .await?;
    Ok(pb::RestoreImagesResponse { restored_count })
}

fn records(images: &[pb::BackupImage], dimension: usize, limits: &Limits) -> Result<Vec<node::PutRecord>, ApiError> {
    let one = |(place, image)| record(&format!("images[{place}]"), image, dimension, limits);
    images.iter().enumerate().map(one).collect()
}

/// The embedding as it is: normalising it again would change its last bits.
fn record(path: &str, image: &pb::BackupImage, dimension: usize, limits: &Limits) -> Result<node::PutRecord, ApiError> {
    validate::new_id(&format!("{path}.id"), &image.id, limits)?;
    let field = format!("{path}.embedding");
    let values = vector::from_bytes(&image.embedding).map_err(|e| ApiError::field(&field, e))?;
    let length = values.iter().map(|v| v * v).sum::<f32>().sqrt();
    if values.len() != dimension || !((1.0 - UNIT)..=(1.0 + UNIT)).contains(&length) {
        let problem = format!("has {} numbers and length {length}; {dimension} of length 1 are needed", values.len());
        return Err(ApiError::bad_field(Reason::InvalidEmbedding, field, problem));
    }
    validate::attributes(&format!("{path}.attributes"), &image.attributes, limits)?;
    Ok(node::PutRecord {
        id: image.id.clone(),
        embedding: image.embedding.clone().into(),
        attributes: image.attributes.clone(),
        content_digest: image.content_digest.clone().into(),
    })
}

/// What is checked before anything is asked of the cluster.
#[cfg(any(test, fuzzing))]
pub(super) mod checks {
    use super::*;

    pub(crate) fn read(request: &pb::ReadBackupRequest) -> Result<(), ApiError> {
        let (cut, _) = page_of(request)?;
        assert_eq!(CutToken::read(&cut.write())?, cut);
        Ok(())
    }

    pub(crate) fn restore(request: &pb::RestoreImagesRequest, dimension: usize) -> Result<(), ApiError> {
        check_restore(request)?;
        records(&request.images, dimension, &Limits::default()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_back() {
        let token = CutToken { node: u64::MAX, group: 7, cut: 12 };
        assert_eq!(CutToken::read(&token.write()).unwrap(), token);
        for bad in ["", "1-2", "1-2-x", "1-2-3-4", "1-fffffffff-3"] {
            assert!(CutToken::read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_what_could_have_been_stored_is_restored() {
        let read = |image: &pb::BackupImage| record("images[0]", image, 2, &Limits::default());
        let image = |values: &[f32]| pb::BackupImage {
            id: "a".into(),
            embedding: vector::to_bytes(values).to_vec(),
            ..Default::default()
        };
        let kept = read(&image(&[0.6, 0.800_01])).unwrap();
        assert_eq!(kept.embedding, vector::to_bytes(&[0.6, 0.800_01]));
        for bad in [&[0.6, 0.9][..], &[1.0], &[f32::NAN, 1.0], &[0.0, 0.0]] {
            assert_eq!(read(&image(bad)).unwrap_err().reason, Reason::InvalidEmbedding, "{bad:?}");
        }
        let nameless = pb::BackupImage { id: String::new(), ..image(&[0.6, 0.8]) };
        assert!(read(&nameless).is_err());
        let value = pb::AttributeValue { kind: Some(pb::attribute_value::Kind::BoolValue(true)) };
        let attributes = (0..65).map(|n| (n.to_string(), value.clone())).collect();
        let error = read(&pb::BackupImage { attributes, ..image(&[0.6, 0.8]) }).unwrap_err();
        assert_eq!(error.fields[0].0, "images[0].attributes");
    }
}
