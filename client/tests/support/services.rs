//! The four services over [`super::Store`].

use std::pin::Pin;

use futures::Stream;
use omma_common::error::{ApiError, Reason};
use omma_common::session::Session;
use omma_proto::v1::cluster_service_server::ClusterService;
use omma_proto::v1::collection_service_server::CollectionService;
use omma_proto::v1::image_service_server::ImageService;
use omma_proto::v1::search_service_server::SearchService;
use omma_proto::v1::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::store::{no_image, space};
use super::{Shared, State};

const GROUPS: u32 = 3;

fn maybe_unavailable(state: &mut State) -> Result<(), ApiError> {
    if state.faults.unavailable_calls == 0 {
        return Ok(());
    }
    state.faults.unavailable_calls -= 1;
    Err(ApiError::new(Reason::GroupUnavailable, "group 1 has no leader"))
}

fn token(state: &State) -> Option<SessionToken> {
    let mut session = Session::default();
    session.require(1, state.store.applied);
    Some(session.to_token())
}

fn put_one(state: &mut State, collection: &str, image: NewImage, request_id: &str) -> PutResult {
    let id = image.id.clone();
    match state.store.put(collection, image, request_id) {
        Ok(effect) => PutResult { id, effect: effect.into(), error: None },
        Err(error) => PutResult { id, effect: 0, error: Some(error.to_rpc_status()) },
    }
}

fn answer(hits: Vec<Hit>, include_attributes: bool) -> SearchResponse {
    let strip = |hit: Hit| if include_attributes { hit } else { Hit { attributes: Default::default(), ..hit } };
    let took = |micros: i32| Some(prost_types::Duration { seconds: 0, nanos: micros * 1000 });
    SearchResponse {
        hits: hits.into_iter().map(strip).collect(),
        coverage: Some(Coverage { groups_asked: GROUPS, groups_answered: GROUPS, failures: vec![] }),
        timings: Some(SearchTimings { total: took(900), fan_out: took(500), ..Default::default() }),
    }
}

#[tonic::async_trait]
impl CollectionService for Shared {
    async fn create_collection(
        &self,
        request: Request<CreateCollectionRequest>,
    ) -> Result<Response<CreateCollectionResponse>, Status> {
        let r = request.into_inner();
        let mut state = self.lock();
        maybe_unavailable(&mut state)?;
        let collection = state.store.create(&r.name, r.vector_space)?;
        Ok(Response::new(CreateCollectionResponse { collection: Some(collection) }))
    }

    async fn get_collection(
        &self,
        request: Request<GetCollectionRequest>,
    ) -> Result<Response<GetCollectionResponse>, Status> {
        let collection = self.lock().store.get(&request.get_ref().name)?;
        Ok(Response::new(GetCollectionResponse { collection: Some(collection) }))
    }

    async fn list_collections(
        &self,
        request: Request<ListCollectionsRequest>,
    ) -> Result<Response<ListCollectionsResponse>, Status> {
        // Two to a page, so that paging is used.
        let after = request.into_inner().page_token;
        let all = self.lock().store.list();
        let mut page: Vec<_> = all.into_iter().filter(|c| c.name > after).take(3).collect();
        let next_page_token = if page.len() == 3 { (page.pop(), page[1].name.clone()).1 } else { String::new() };
        Ok(Response::new(ListCollectionsResponse { collections: page, next_page_token }))
    }

    async fn delete_collection(
        &self,
        request: Request<DeleteCollectionRequest>,
    ) -> Result<Response<DeleteCollectionResponse>, Status> {
        let mut state = self.lock();
        maybe_unavailable(&mut state)?;
        state.store.delete_collection(&request.get_ref().name)?;
        Ok(Response::new(DeleteCollectionResponse {}))
    }
}

#[tonic::async_trait]
impl SearchService for Shared {
    async fn search(&self, request: Request<SearchRequest>) -> Result<Response<SearchResponse>, Status> {
        let timeout = request.metadata().get("grpc-timeout").and_then(|t| t.to_str().ok()).map(str::to_owned);
        let r = request.into_inner();
        let mut state = self.lock();
        state.last_timeout = timeout;
        maybe_unavailable(&mut state)?;
        let hits = state.store.search(&r.collection, &r.query.unwrap_or_default())?;
        Ok(Response::new(answer(hits, r.include_attributes)))
    }

    async fn batch_search(
        &self,
        request: Request<BatchSearchRequest>,
    ) -> Result<Response<BatchSearchResponse>, Status> {
        let r = request.into_inner();
        let state = self.lock();
        let one = |query: &Query| match state.store.search(&r.collection, query) {
            Ok(hits) => BatchSearchResult { response: Some(answer(hits, r.include_attributes)), error: None },
            Err(error) => BatchSearchResult { response: None, error: Some(error.to_rpc_status()) },
        };
        Ok(Response::new(BatchSearchResponse { results: r.queries.iter().map(one).collect() }))
    }
}

fn find_node(node: &str) -> Result<u64, Status> {
    let found =
        [11, 12, 13].into_iter().find(|id: &u64| *node == id.to_string() || *node == format!("127.0.0.1:77{id}"));
    found.ok_or_else(|| ApiError::new(Reason::NodeNotFound, format!("there is no shard node {node:?}")).into())
}

#[tonic::async_trait]
impl ClusterService for Shared {
    async fn get_cluster_status(
        &self,
        _: Request<GetClusterStatusRequest>,
    ) -> Result<Response<GetClusterStatusResponse>, Status> {
        let mut state = self.lock();
        // Draining takes from one look to the next.
        let draining = state.draining;
        let state_of = |node_id: u64| match draining {
            Some((id, done)) if id == node_id && done => NodeState::Drained,
            Some((id, _)) if id == node_id => NodeState::Draining,
            _ => NodeState::Active,
        };
        state.draining = draining.map(|(id, _)| (id, true));
        let replica = |node_id: u64| ReplicaStatus {
            node_id,
            reachable: true,
            role: if node_id == 11 { ReplicaRole::Leader } else { ReplicaRole::Follower }.into(),
            applied_index: state.store.applied,
            image_count: state.store.count(),
            digest: vec![7; 32],
            ..Default::default()
        };
        let group = |group_id: u32| GroupStatus {
            group_id,
            leader_node_id: 11,
            term: 2,
            slot_count: if group_id == 0 { 0 } else { 4096 / GROUPS },
            replicas: [11, 12, 13].map(replica).to_vec(),
            agreement: Agreement::Equal.into(),
        };
        let node = |node_id: u64| NodeStatus {
            node_id,
            address: format!("127.0.0.1:77{node_id}"),
            reachable: true,
            version: "0.1.0".into(),
            encoder: Some(EncoderStatus {
                model: "fake".into(),
                vector_space: Some(space()),
                device: "cpu".into(),
                runtime: "none".into(),
                ..Default::default()
            }),
            state: state_of(node_id).into(),
            ..Default::default()
        };
        Ok(Response::new(GetClusterStatusResponse {
            cluster_id: "fake".into(),
            epoch: 3,
            nodes: [11, 12, 13].map(node).to_vec(),
            groups: (0..=GROUPS).map(group).collect(),
            vector_space: Some(space()),
            version: "0.1.0".into(),
            moves_paused: state.moves_paused,
            wanted_group_count: 3,
        }))
    }

    async fn drain_node(&self, request: Request<DrainNodeRequest>) -> Result<Response<DrainNodeResponse>, Status> {
        let node_id = find_node(&request.into_inner().node)?;
        self.lock().draining = Some((node_id, false));
        Ok(Response::new(DrainNodeResponse { node_id }))
    }

    async fn undrain_node(
        &self,
        request: Request<UndrainNodeRequest>,
    ) -> Result<Response<UndrainNodeResponse>, Status> {
        let node_id = find_node(&request.into_inner().node)?;
        self.lock().draining = None;
        Ok(Response::new(UndrainNodeResponse { node_id }))
    }

    async fn remove_node(&self, request: Request<RemoveNodeRequest>) -> Result<Response<RemoveNodeResponse>, Status> {
        let node_id = find_node(&request.into_inner().node)?;
        match self.lock().draining {
            Some((id, true)) if id == node_id => Ok(Response::new(RemoveNodeResponse { node_id })),
            _ => Err(ApiError::new(Reason::NodeInUse, "drain it first").into()),
        }
    }

    async fn pause_moves(&self, _: Request<PauseMovesRequest>) -> Result<Response<PauseMovesResponse>, Status> {
        self.lock().moves_paused = true;
        Ok(Response::new(PauseMovesResponse {}))
    }

    async fn resume_moves(&self, _: Request<ResumeMovesRequest>) -> Result<Response<ResumeMovesResponse>, Status> {
        self.lock().moves_paused = false;
        Ok(Response::new(ResumeMovesResponse {}))
    }

    async fn set_group_count(
        &self,
        request: Request<SetGroupCountRequest>,
    ) -> Result<Response<SetGroupCountResponse>, Status> {
        // Half-way, for ever.
        self.lock().slot_moves = vec![SlotMove {
            move_id: 1,
            from_group_id: 1,
            to_group_id: request.into_inner().group_count,
            slot_count: 683,
            phase: SlotMovePhase::Copying.into(),
            done: 40,
            total: 1200,
            ..Default::default()
        }];
        Ok(Response::new(SetGroupCountResponse {}))
    }

    async fn list_moves(&self, request: Request<ListMovesRequest>) -> Result<Response<ListMovesResponse>, Status> {
        let state = self.lock();
        let moving = |group_id| Move {
            group_id,
            from_node_id: 11,
            to_node_id: 13,
            reason: MoveReason::Drain.into(),
            phase: MovePhase::Copying.into(),
            done: 40,
            total: 1200,
            remaining: Some(prost_types::Duration { seconds: 29, nanos: 0 }),
            ..Default::default()
        };
        // Two pages of one move each, while a node drains.
        let (moves, next_page_token) = match (state.draining, request.into_inner().page_token.as_str()) {
            (None, _) => (vec![], String::new()),
            (_, "") => (vec![moving(1)], "second".to_owned()),
            _ => (vec![moving(2)], String::new()),
        };
        let slot_moves = state.slot_moves.clone();
        Ok(Response::new(ListMovesResponse { moves, next_page_token, paused: state.moves_paused, slot_moves }))
    }
}

#[tonic::async_trait]
impl ImageService for Shared {
    type IngestImagesStream = Pin<Box<dyn Stream<Item = Result<IngestImagesResponse, Status>> + Send>>;

    async fn put_images(&self, request: Request<PutImagesRequest>) -> Result<Response<PutImagesResponse>, Status> {
        let r = request.into_inner();
        let mut state = self.lock();
        maybe_unavailable(&mut state)?;
        state.store.get(&r.collection)?;
        let results = r.images.into_iter().map(|i| put_one(&mut state, &r.collection, i, &r.request_id)).collect();
        Ok(Response::new(PutImagesResponse { results, session_token: token(&state) }))
    }

    async fn ingest_images(
        &self,
        request: Request<Streaming<IngestImagesRequest>>,
    ) -> Result<Response<Self::IngestImagesStream>, Status> {
        let mut requests = request.into_inner();
        // As a server may: the answer begins with the first message.
        let Some(first) = requests.message().await? else {
            return Err(ApiError::field("collection", "is missing").into());
        };
        let (break_after, silent) = {
            let mut state = self.lock();
            state.streams_opened += 1;
            state.store.get(&first.collection)?;
            let faults = &mut state.faults;
            let plan =
                if faults.break_stream_after.is_empty() { None } else { Some(faults.break_stream_after.remove(0)) };
            (plan, faults.silent)
        };
        let (responses, receiver) = mpsc::channel(4);
        let shared = self.clone();
        tokio::spawn(async move {
            let collection = first.collection.clone();
            let (mut next, mut answered) = (Some(first), 0);
            while let Some(request) = next {
                let response = ingest_one(&shared, &collection, request);
                if break_after == Some(answered) {
                    // The image may have been stored, but the answer is lost.
                    return drop(responses.send(Err(Status::unknown("h2 protocol error"))).await);
                }
                answered += 1;
                if !silent && responses.send(Ok(response)).await.is_err() {
                    return;
                }
                next = requests.message().await.ok().flatten();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn get_image(&self, request: Request<GetImageRequest>) -> Result<Response<GetImageResponse>, Status> {
        let r = request.into_inner();
        let image = self.lock().store.image(&r.collection, &r.id, r.include_embedding)?;
        Ok(Response::new(GetImageResponse { image: Some(image.ok_or_else(|| no_image(&r.id))?) }))
    }

    async fn batch_get_images(
        &self,
        request: Request<BatchGetImagesRequest>,
    ) -> Result<Response<BatchGetImagesResponse>, Status> {
        let r = request.into_inner();
        let state = self.lock();
        let mut images = Vec::new();
        for id in &r.ids {
            images.extend(state.store.image(&r.collection, id, r.include_embedding)?);
        }
        Ok(Response::new(BatchGetImagesResponse { images }))
    }

    async fn delete_images(
        &self,
        request: Request<DeleteImagesRequest>,
    ) -> Result<Response<DeleteImagesResponse>, Status> {
        let r = request.into_inner();
        let mut state = self.lock();
        let deleted_count = state.store.delete(&r.collection, &r.ids)?;
        Ok(Response::new(DeleteImagesResponse { deleted_count, session_token: token(&state) }))
    }
}

fn ingest_one(shared: &Shared, collection: &str, request: IngestImagesRequest) -> IngestImagesResponse {
    let mut state = shared.lock();
    let image = request.image.unwrap_or_default();
    state.arrivals.push((image.id.clone(), request.request_id.clone()));
    let tries = state.arrivals.iter().filter(|(id, _)| *id == image.id).count();
    let result = if tries <= state.faults.overloaded as usize {
        let error = ApiError::new(Reason::Overloaded, "the queue is full").to_rpc_status();
        PutResult { id: image.id, effect: 0, error: Some(error) }
    } else {
        put_one(&mut state, collection, image, &request.request_id)
    };
    IngestImagesResponse { sequence: request.sequence, result: Some(result), session_token: token(&state) }
}
