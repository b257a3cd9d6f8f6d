//! The shard service: writes and reads of this node's replicas.

use std::sync::Arc;
use std::time::Instant;

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::fair::Turn;
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_common::{telemetry, vector};
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::shard_service_server::ShardService;
use omma_proto::internal::v1::*;
use omma_proto::v1::new_image::Content;
use omma_proto::v1::{Consistency, Filter, PutResult};
use prost::Message;
use tonic::{Request, Response, Status};
use tracing::Instrument;

use super::checks::check_leader;
use super::{beat, errors, put};
use crate::encoder::Line;
use crate::group::{Barrier, GroupError};
use crate::images::command::{self, RECORDS_PER_COMMAND};
use crate::images::digests::Mark;
use crate::images::recall::Answered;
use crate::images::slots::slot_set;
use crate::images::{ImageHit, ImageState};
use crate::metrics::{REFUSED, SEARCH_SECONDS};
use crate::node::{Node, Shard, blocking};

pub(super) struct ShardApi {
    pub(super) node: Arc<Node>,
}

pub(super) type Answer<T> = Result<T, ApiError>;

#[tonic::async_trait]
impl ShardService for ShardApi {
    async fn put_images(&self, request: Request<PutImagesRequest>) -> Result<Response<PutImagesResponse>, Status> {
        self.call(request, "put_images", |api, message, deadline| api.put(message, deadline)).await
    }

    async fn delete_images(
        &self,
        request: Request<DeleteImagesRequest>,
    ) -> Result<Response<DeleteImagesResponse>, Status> {
        self.call(request, "delete_images", |api, message, deadline| api.delete(message, deadline)).await
    }

    async fn get_images(&self, request: Request<GetImagesRequest>) -> Result<Response<GetImagesResponse>, Status> {
        self.call(request, "get_images", |api, message, deadline| api.get(message, deadline)).await
    }

    async fn search_group(
        &self,
        request: Request<SearchGroupRequest>,
    ) -> Result<Response<SearchGroupResponse>, Status> {
        self.call(request, "search_group", |api, message, deadline| api.search(message, deadline)).await
    }

    async fn encode_picture(
        &self,
        request: Request<EncodePictureRequest>,
    ) -> Result<Response<EncodePictureResponse>, Status> {
        self.call(request, "encode_picture", |api, message, deadline| api.encode(message, deadline)).await
    }

    async fn drop_collection(
        &self,
        request: Request<DropCollectionRequest>,
    ) -> Result<Response<DropCollectionResponse>, Status> {
        self.call(request, "drop_collection", |api, message, deadline| api.drop_collection(message, deadline)).await
    }

    async fn get_node_status(
        &self,
        _: Request<GetNodeStatusRequest>,
    ) -> Result<Response<GetNodeStatusResponse>, Status> {
        let node = self.node.clone();
        // Reads atomics and locks that apply holds for moments only, but many of them.
        Ok(Response::new(blocking(move || node.status()).await))
    }

    async fn cut_collection(
        &self,
        request: Request<CutCollectionRequest>,
    ) -> Result<Response<CutCollectionResponse>, Status> {
        self.call(request, "cut_collection", |api, message, deadline| api.cut_collection(message, deadline)).await
    }

    async fn read_cut(&self, request: Request<ReadCutRequest>) -> Result<Response<ReadCutResponse>, Status> {
        self.call(request, "read_cut", |api, message, deadline| api.read_cut(message, deadline)).await
    }

    async fn import_records(
        &self,
        request: Request<ImportRecordsRequest>,
    ) -> Result<Response<ImportRecordsResponse>, Status> {
        self.call(request, "import_records", |api, message, deadline| api.import_records(message, deadline)).await
    }

    async fn get_digests(&self, request: Request<GetDigestsRequest>) -> Result<Response<GetDigestsResponse>, Status> {
        self.call(request, "get_digests", |api, message, _| api.digests(message)).await
    }
}

impl ShardApi {
    /// One call: its deadline is the caller's.
    async fn call<'a, M, T, F>(
        &'a self,
        request: Request<M>,
        name: &'static str,
        serve: impl FnOnce(&'a Self, M, Deadline) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Answer<T>>,
    {
        let deadline = Deadline::of(request.metadata());
        let answer = deadline.run(name, serve(self, request.into_inner(), deadline)).await?;
        answer.map(Response::new).map_err(Status::from)
    }

    pub(super) fn shard(&self, target: Option<Target>) -> Answer<(Shard, Target)> {
        let target = target.ok_or_else(|| errors::missing("target"))?;
        let shard = self.node.shard(target.group_id).ok_or_else(|| errors::unknown_group(target.group_id))?;
        if self.node.host.is_damaged(target.group_id) {
            let why = "this replica is damaged and about to be built again";
            return Err(GroupError::Unavailable { group: target.group_id, why }.into());
        }
        Ok((shard, target))
    }

    async fn put(&self, request: PutImagesRequest, deadline: Deadline) -> Answer<PutImagesResponse> {
        let (shard, target) = self.shard(request.target)?;
        check_leader(&self.node, &shard.replica.status())?;
        self.node.check_room(&shard.replica.status())?;
        self.check_tail(&shard.state, target.collection_uid)?;
        if request.images.len() > RECORDS_PER_COMMAND {
            return Err(ApiError::field("images", format!("are more than {RECORDS_PER_COMMAND}")));
        }
        let ids: Vec<String> = request.images.iter().map(|i| i.id.clone()).collect();
        if !shard.state.may_write(&ids) {
            return Err(errors::slots_moved());
        }
        let line = Line { client: request.client, urgent: false };
        let encodes = request.images.iter().any(|i| matches!(i.content, Some(Content::Picture(_))));
        let prepared = put::prepare(&self.node, &shard.state, &target, request.images, line, deadline).await?;
        if encodes {
            beat::next(self.node.encoder.backlog(line), deadline).await;
        }
        let records: Vec<PutRecord> = prepared.iter().filter_map(|p| p.as_ref().ok().cloned()).collect();
        let sent = records.len();
        let (outcome, applied_index) = match sent {
            0 => (ImageOutcome::default(), shard.replica.status().applied),
            _ => {
                let command = Command::Put(PutRecords {
                    dimension: target.dimension,
                    records,
                    quantization: target.quantization,
                });
                self.propose(&shard, &request.request_id, target.collection_uid, command, deadline).await?
            }
        };
        let mut effects = outcome.effects.into_iter();
        let results = ids.into_iter().zip(prepared).map(|(id, prepared)| match prepared {
            Ok(_) => PutResult { id, effect: effects.next().unwrap_or_default(), error: None },
            Err(error) => PutResult { id, effect: 0, error: Some(error.to_rpc_status()) },
        });
        Ok(PutImagesResponse { results: results.collect(), applied_index })
    }

    async fn delete(&self, request: DeleteImagesRequest, deadline: Deadline) -> Answer<DeleteImagesResponse> {
        let (shard, target) = self.shard(request.target)?;
        self.node.config.room.for_log().map_err(GroupError::from)?;
        let command = Command::Delete(DeleteRecords { ids: request.ids });
        let (outcome, applied_index) =
            self.propose(&shard, &request.request_id, target.collection_uid, command, deadline).await?;
        Ok(DeleteImagesResponse { deleted_count: outcome.deleted_count, applied_index })
    }

    async fn drop_collection(
        &self,
        request: DropCollectionRequest,
        deadline: Deadline,
    ) -> Answer<DropCollectionResponse> {
        let (shard, target) = self.shard(request.target)?;
        let command = Command::Drop(DropRecords {});
        self.propose(&shard, "", target.collection_uid, command, deadline).await?;
        Ok(DropCollectionResponse {})
    }

    /// Proposes a command and returns what it did, and at which log index.
    pub(super) async fn propose(
        &self,
        shard: &Shard,
        request_id: &str,
        uid: u64,
        command: Command,
        deadline: Deadline,
    ) -> Answer<(ImageOutcome, u64)> {
        let proposed = shard.replica.propose(command::encode(request_id, uid, command), deadline).await?;
        let outcome = command::decode_outcome(&proposed.outcome);
        match outcome.refusal() {
            ImageRefusal::Unspecified => Ok((outcome, proposed.index)),
            why => Err(errors::refusal(why, uid)),
        }
    }

    async fn get(&self, request: GetImagesRequest, deadline: Deadline) -> Answer<GetImagesResponse> {
        let (shard, target) = self.shard(request.target)?;
        fresh(&shard, &target, request.consistency, request.min_applied_index, deadline).await?;
        let turn = self.turn(request.client, deadline).await?;
        let node = self.node.clone();
        let read = move || {
            let _turn = turn;
            let served = shard.state.serves(&request.ids).map_err(|e| errors::state(&e))?;
            let (mut images, mut room) = (Vec::new(), Room::in_message());
            for id in &request.ids {
                in_time(deadline)?;
                let found = shard.state.get(target.collection_uid, id, request.include_embedding);
                let Some(image) = found.map_err(|e| node.read_error(target.group_id, &e))? else { continue };
                room.take(&image)?;
                images.push(image);
            }
            if !served.still() {
                return Err(errors::slots_moved());
            }
            Ok(GetImagesResponse { images })
        };
        blocking(read).await
    }

    async fn search(&self, request: SearchGroupRequest, deadline: Deadline) -> Answer<SearchGroupResponse> {
        let (shard, target) = self.shard(request.target.clone())?;
        let (consistency, attributes, client) = (request.consistency, request.include_attributes, request.client);
        let min_applied_index = request.min_applied_index;
        let slots = Some(slot_set(&request.slots)).filter(|slots| !slots.is_empty());
        let queries = queries(request, target.dimension)?;
        let span = telemetry::child(|| tracing::debug_span!("read barrier", group = target.group_id));
        let fresh = fresh(&shard, &target, consistency, min_applied_index, deadline);
        let applied_index = fresh.instrument(span).await?;
        let span = telemetry::child(|| tracing::debug_span!("wait for a turn"));
        let turn = self.turn(client, deadline).instrument(span).await?;
        let uid = target.collection_uid;
        let span = telemetry::child(|| tracing::debug_span!("search", group = target.group_id));
        let node = self.node.clone();
        let search = move || {
            // Until the work ends: its caller may give up long before.
            let _turn = turn;
            let _in_span = span.entered();
            let (mut hits, mut room) = (Vec::new(), Room::in_message());
            for GroupQuery { embedding, k, filter } in &queries {
                in_time(deadline)?;
                let begun = Instant::now();
                let found = shard.state.search_in(uid, embedding, *k, filter.as_ref(), slots.as_ref(), attributes);
                let found = found.map_err(|e| node.read_error(target.group_id, &e))?;
                SEARCH_SECONDS.took(begun.elapsed());
                // While slots move, the exact search would see images that are not sought here.
                if filter.is_none() && shard.state.slot_move().0.is_none() && node.recall.wants() {
                    let (query, hits) = (embedding.clone(), found.clone());
                    node.recall.offer(&shard.state, Answered { uid, query, k: *k, hits, applied: applied_index });
                }
                let found = group_hits(found);
                room.take(&found)?;
                hits.push(found);
            }
            Ok(SearchGroupResponse { hits, applied_index })
        };
        blocking(search).await
    }

    /// Waits for a place among the reads that run. Clients get theirs in turn.
    pub(super) async fn turn(&self, client: u64, deadline: Deadline) -> Answer<Turn> {
        let turn = deadline.run("a place to read", self.node.reads.take(client)).await?;
        turn.map_err(|too_many| {
            REFUSED.with(&["reads"]).inc();
            ApiError::new(Reason::Overloaded, format!("{} reads are waiting already", too_many.waiting))
        })
    }

    async fn encode(&self, request: EncodePictureRequest, deadline: Deadline) -> Answer<EncodePictureResponse> {
        put::check_space(&self.node, &request.vector_space_id)?;
        let line = Line { client: request.client, urgent: true };
        let encoded = self.node.encoder.encode(request.picture, line, deadline).await?;
        Ok(EncodePictureResponse {
            embedding: vector::to_bytes(&encoded.embedding),
            decode_micros: encoded.decode.as_micros() as u64,
            queue_micros: encoded.queue.as_micros() as u64,
            inference_micros: encoded.inference.as_micros() as u64,
        })
    }

    async fn digests(&self, request: GetDigestsRequest) -> Answer<GetDigestsResponse> {
        let marks = self.node.digests(request.group_id).await;
        let marks = marks.ok_or_else(|| errors::unknown_group(request.group_id))?;
        let mark = |m: Mark| DigestMark { applied_index: m.applied, digest: m.digest.into() };
        let without_room = self.node.config.room.for_images().is_err();
        Ok(GetDigestsResponse { marks: marks.into_iter().map(mark).collect(), without_room })
    }

    /// Refuses writes while too much waits for the graph: searches would slow down without end.
    pub(super) fn check_tail(&self, state: &ImageState, uid: u64) -> Answer<()> {
        let (tail, limit) = (state.tail(uid), self.node.config.max_tail);
        if tail <= limit {
            return Ok(());
        }
        REFUSED.with(&["tail"]).inc();
        let message = format!("{tail} images wait for the graph and {limit} may: send more slowly");
        Err(ApiError::new(Reason::IndexBehind, message).over("max-tail", limit).with("tail", tail))
    }
}

/// What is left of the largest message.
struct Room(usize);

impl Room {
    /// Less what stands around the parts.
    fn in_message() -> Self {
        Self(MAX_MESSAGE_BYTES - (64 << 10))
    }

    /// Takes a part in, with its length and tag.
    fn take(&mut self, part: &impl Message) -> Answer<()> {
        let left = self.0.checked_sub(part.encoded_len() + 8);
        self.0 = left.ok_or_else(errors::answer_too_large)?;
        Ok(())
    }
}

/// Gives work up that nobody waits for any more.
fn in_time(deadline: Deadline) -> Answer<()> {
    let late = || ApiError::new(Reason::DeadlineExceeded, "the deadline passed before the read was done");
    if deadline.passed() { Err(late()) } else { Ok(()) }
}

/// Waits until the replica's state is as fresh as a read asks, and knows the slots that the sender's map gives its group.
async fn fresh(
    shard: &Shard,
    target: &Target,
    consistency: i32,
    min_applied_index: u64,
    deadline: Deadline,
) -> Answer<u64> {
    let barrier = match Consistency::try_from(consistency) {
        Ok(Consistency::Any) => Barrier::Any,
        Ok(Consistency::Session) => Barrier::AtLeast(min_applied_index.max(target.slots_index)),
        _ => Barrier::Linearizable,
    };
    let applied = shard.replica.read_barrier(barrier, deadline).await?;
    if applied < target.slots_index { Err(errors::slots_moved()) } else { Ok(applied) }
}

/// One query of a group.
struct GroupQuery {
    embedding: Vec<f32>,
    k: usize,
    filter: Option<Filter>,
}

fn queries(request: SearchGroupRequest, dimension: u32) -> Answer<Vec<GroupQuery>> {
    let SearchGroupRequest { queries, k, filters, .. } = request;
    if queries.len() != k.len() {
        return Err(ApiError::field("k", "must be given for each query"));
    }
    if !filters.is_empty() && filters.len() != queries.len() {
        return Err(ApiError::field("filters", "must be given for each query or for none"));
    }
    let filters = filters.into_iter().map(|filter| Some(filter).filter(|f| f.condition.is_some()));
    let one = |((bytes, k), filter): ((bytes::Bytes, u32), Option<Filter>)| {
        let mut embedding = vector::from_bytes(&bytes).map_err(|e| ApiError::field("queries", e))?;
        vector::normalise(&mut embedding, dimension as usize)
            .map_err(|e| ApiError::bad_field(Reason::InvalidEmbedding, "queries", e))?;
        Ok(GroupQuery { embedding, k: k as usize, filter })
    };
    queries.into_iter().zip(k).zip(filters.chain(std::iter::repeat(None))).map(one).collect()
}

fn group_hits(hits: Vec<ImageHit>) -> GroupHits {
    let hit = |h: ImageHit| GroupHit { id: h.id, score: h.score, attributes: h.attributes };
    GroupHits { hits: hits.into_iter().map(hit).collect() }
}
