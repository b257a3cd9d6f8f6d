//! The service for images, over records in memory.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use omma_common::error::{ApiError, Reason};
use omma_common::vector;
use omma_proto::internal::v1 as node;
use omma_proto::internal::v1::shard_service_server::ShardService;
use omma_proto::v1 as pb;
use tonic::{Request, Response, Status};

use super::double::{Double, bad_picture, embed};
use super::{GROUPS, NODES};

#[tonic::async_trait]
impl ShardService for Double {
    async fn put_images(
        &self,
        request: Request<node::PutImagesRequest>,
    ) -> Result<Response<node::PutImagesResponse>, Status> {
        self.script.puts.fetch_add(1, Ordering::SeqCst);
        let now = self.script.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        self.script.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let misbehaved = self.misbehave().await;
        self.script.in_flight.fetch_sub(1, Ordering::SeqCst);
        misbehaved?;
        let request = request.into_inner();
        let target = self.admit(request.target.as_ref(), true)?;
        let answer = self.put(&target, &request);
        if self.script.lose_next_answer.swap(false, Ordering::SeqCst) {
            return Err(Status::unknown("transport error: scripted"));
        }
        Ok(Response::new(answer))
    }

    async fn delete_images(
        &self,
        request: Request<node::DeleteImagesRequest>,
    ) -> Result<Response<node::DeleteImagesResponse>, Status> {
        self.misbehave().await?;
        let request = request.into_inner();
        let target = self.admit(request.target.as_ref(), true)?;
        let mut state = self.state.lock();
        let records = state.records.entry(target.group_id).or_default();
        let gone = request.ids.iter().filter(|id| records.remove(&(target.collection_uid, (*id).clone())).is_some());
        let deleted_count = gone.count() as u32;
        let applied = state.applied.entry(target.group_id).or_default();
        *applied += 1;
        Ok(Response::new(node::DeleteImagesResponse { deleted_count, applied_index: *applied }))
    }

    async fn get_images(
        &self,
        request: Request<node::GetImagesRequest>,
    ) -> Result<Response<node::GetImagesResponse>, Status> {
        self.misbehave().await?;
        let request = request.into_inner();
        let lead = request.consistency == pb::Consistency::Linearizable as i32;
        let target = self.admit(request.target.as_ref(), lead)?;
        let mut state = self.state.lock();
        let records = state.records.entry(target.group_id).or_default();
        let images = request.ids.iter().filter_map(|id| {
            let (values, attributes) = records.get(&(target.collection_uid, id.clone()))?.clone();
            let embedding = request.include_embedding.then_some(pb::Embedding { values });
            Some(pb::Image { id: id.clone(), attributes, embedding, ..Default::default() })
        });
        Ok(Response::new(node::GetImagesResponse { images: images.collect() }))
    }

    async fn search_group(
        &self,
        request: Request<node::SearchGroupRequest>,
    ) -> Result<Response<node::SearchGroupResponse>, Status> {
        self.script.searches.fetch_add(1, Ordering::SeqCst);
        self.misbehave().await?;
        let request = request.into_inner();
        let lead = request.consistency == pb::Consistency::Linearizable as i32;
        let target = self.admit(request.target.as_ref(), lead)?;
        let mut state = self.state.lock();
        let applied_index = state.applied.get(&target.group_id).copied().unwrap_or(0);
        assert!(applied_index >= request.min_applied_index);
        let owned = state.metadata.groups.iter().find(|g| g.group_id == target.group_id);
        if owned.is_none_or(|owned| owned.slots != request.slots) {
            return Err(ApiError::new(Reason::SlotsMoved, "by a newer map").into());
        }
        let records = state.records.entry(target.group_id).or_default();
        let search = |(query, k): (&bytes::Bytes, &u32)| {
            let query = vector::from_bytes(query).unwrap();
            let of_collection = records.iter().filter(|((uid, _), _)| *uid == target.collection_uid);
            let mut hits: Vec<_> = of_collection
                .map(|((_, id), (v, attributes))| node::GroupHit {
                    id: id.clone(),
                    score: v.iter().zip(&query).map(|(a, b)| a * b).sum(),
                    attributes: if request.include_attributes { attributes.clone() } else { BTreeMap::new() },
                })
                .collect();
            hits.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
            hits.truncate(*k as usize);
            node::GroupHits { hits }
        };
        let hits = request.queries.iter().zip(&request.k).map(search).collect();
        Ok(Response::new(node::SearchGroupResponse { hits, applied_index }))
    }

    async fn encode_picture(
        &self,
        request: Request<node::EncodePictureRequest>,
    ) -> Result<Response<node::EncodePictureResponse>, Status> {
        self.script.encodes.fetch_add(1, Ordering::SeqCst);
        self.misbehave().await?;
        let embedding = embed(&request.into_inner().picture).ok_or_else(bad_picture)?;
        Ok(Response::new(node::EncodePictureResponse {
            embedding: vector::to_bytes(&embedding),
            decode_micros: 5,
            queue_micros: 6,
            inference_micros: 7,
        }))
    }

    async fn drop_collection(
        &self,
        request: Request<node::DropCollectionRequest>,
    ) -> Result<Response<node::DropCollectionResponse>, Status> {
        let target = self.admit(request.into_inner().target.as_ref(), true)?;
        let mut state = self.state.lock();
        state.dropped.push((target.group_id, target.collection_uid));
        if std::mem::take(&mut state.grows_on_drop) {
            let group_id = GROUPS + 1;
            let replicas = (1..=NODES).collect();
            state.metadata.groups.push(node::Group { group_id, replicas, ..Default::default() });
            state.metadata.epoch += 1;
            state.metadata.version += 1;
            state.leaders.insert(group_id, (1, 1));
        }
        state.records.entry(target.group_id).or_default().retain(|(uid, _), _| *uid != target.collection_uid);
        Ok(Response::new(node::DropCollectionResponse {}))
    }

    async fn cut_collection(
        &self,
        _: Request<node::CutCollectionRequest>,
    ) -> Result<Response<node::CutCollectionResponse>, Status> {
        Err(Status::unimplemented("backups are tested with real nodes"))
    }

    async fn read_cut(&self, _: Request<node::ReadCutRequest>) -> Result<Response<node::ReadCutResponse>, Status> {
        Err(Status::unimplemented("backups are tested with real nodes"))
    }

    async fn import_records(
        &self,
        _: Request<node::ImportRecordsRequest>,
    ) -> Result<Response<node::ImportRecordsResponse>, Status> {
        Err(Status::unimplemented("backups are tested with real nodes"))
    }

    async fn get_digests(
        &self,
        _: Request<node::GetDigestsRequest>,
    ) -> Result<Response<node::GetDigestsResponse>, Status> {
        Err(Status::unimplemented("coordinators do not ask for digests"))
    }

    async fn get_node_status(
        &self,
        _: Request<node::GetNodeStatusRequest>,
    ) -> Result<Response<node::GetNodeStatusResponse>, Status> {
        self.misbehave().await?;
        let state = self.state.lock();
        let replicas = (0..=GROUPS).map(|group_id| node::ReplicaState {
            group_id,
            term: state.leaders[&group_id].1,
            leader_node_id: state.leaders[&group_id].0,
            status: Some(pb::ReplicaStatus { applied_index: 3, digest: vec![7; 32], ..Default::default() }),
            slot_move: None,
        });
        let mut counts: BTreeMap<(u32, u64), u64> = BTreeMap::new();
        for (group, records) in &state.records {
            records.keys().for_each(|(uid, _)| *counts.entry((*group, *uid)).or_default() += 1);
        }
        let collections = counts.into_iter().map(|((group_id, collection_uid), image_count)| node::CollectionCount {
            group_id,
            collection_uid,
            image_count,
        });
        let encoder = pb::EncoderStatus { vector_space: state.metadata.encoder_space.clone(), ..Default::default() };
        Ok(Response::new(node::GetNodeStatusResponse {
            node: Some(pb::NodeStatus { node_id: self.id, encoder: Some(encoder), ..Default::default() }),
            replicas: replicas.collect(),
            collections: collections.collect(),
        }))
    }
}
