//! A double of a cluster of shard nodes: real gRPC servers on loopback over one set of in-memory records, searched by
//! brute force, that can be told to misbehave.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use omma_common::error::{ApiError, Reason};
use omma_common::shutdown::{Shutdown, Trigger, channel};
use omma_common::slot::slot_of;
use omma_common::vector;
use omma_coordinator::{CoordinatorConfig, RunError, run};
use omma_proto::internal::v1 as node;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::metadata_outcome::Outcome;
use omma_proto::internal::v1::metadata_service_server::{MetadataService, MetadataServiceServer};
use omma_proto::internal::v1::shard_service_server::{ShardService, ShardServiceServer};
use omma_proto::v1 as pb;
use omma_proto::v1::new_image::Content;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

pub const NODES: u64 = 3;
pub const GROUPS: u32 = 3;
pub const DIMENSION: u32 = 4;

/// How one node misbehaves.
#[derive(Debug, Default)]
pub struct Script {
    /// Before each search, get, put.
    pub delay: Mutex<Duration>,
    /// Answers every call with UNAVAILABLE that no Omma process made.
    pub down: AtomicBool,
    /// Does the next put, then fails as if the connection had broken.
    pub lose_next_answer: AtomicBool,
    pub searches: AtomicUsize,
    pub encodes: AtomicUsize,
    pub puts: AtomicUsize,
    pub in_flight: AtomicUsize,
    pub most_in_flight: AtomicUsize,
}

type Records = BTreeMap<(u64, String), (Vec<f32>, BTreeMap<String, pb::AttributeValue>)>;

/// What all nodes share: a cluster that replicates at once.
#[derive(Debug, Default)]
pub struct State {
    pub metadata: node::Metadata,
    pub leaders: HashMap<u32, (u64, u64)>,
    pub records: HashMap<u32, Records>,
    pub applied: HashMap<u32, u64>,
    /// Request ids of puts, by group, in the order of the calls.
    pub request_ids: Vec<(u32, String)>,
    pub answers: HashMap<(u32, String), Vec<pb::PutResult>>,
    pub dropped: Vec<(u32, u64)>,
    /// A group is added as soon as a collection is dropped somewhere.
    pub grows_on_drop: bool,
    /// Groups that no node serves.
    pub dead_groups: Vec<u32>,
}

#[derive(Debug, Clone)]
struct Double {
    id: u64,
    state: Arc<Mutex<State>>,
    script: Arc<Script>,
}

/// A cluster of doubles and a coordinator in front of it.
pub struct Cluster {
    pub state: Arc<Mutex<State>>,
    pub scripts: Vec<Arc<Script>>,
    pub address: String,
    pub trigger: Option<Trigger>,
    pub coordinator: JoinHandle<Result<(), RunError>>,
    /// Each node has a runtime of its own, so that killing it breaks its connections.
    nodes: Mutex<BTreeMap<u64, Runtime>>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.coordinator.abort();
        std::mem::take(&mut *self.nodes.lock()).into_values().for_each(Runtime::shutdown_background);
    }
}

impl Cluster {
    /// Three nodes, three groups; node g leads group g, node 1 the metadata.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub async fn start_with(configure: impl FnOnce(&mut CoordinatorConfig)) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let (mut scripts, mut nodes, mut addresses) = (vec![], BTreeMap::new(), vec![]);
        for id in 1..=NODES {
            let double = Double { id, state: Arc::clone(&state), script: Arc::default() };
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            listener.set_nonblocking(true).unwrap();
            addresses.push(listener.local_addr().unwrap());
            scripts.push(Arc::clone(&double.script));
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.spawn(serve(double, listener));
            nodes.insert(id, runtime);
        }
        form(&mut state.lock(), &addresses);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (trigger, shutdown): (Trigger, Shutdown) = channel();
        let mut config = CoordinatorConfig::new(vec![addresses[0].to_string(), addresses[1].to_string()]);
        configure(&mut config);
        let coordinator = tokio::spawn(run(listener, config, shutdown));
        Self { state, scripts, address, trigger: Some(trigger), coordinator, nodes: Mutex::new(nodes) }
    }

    /// Node `id`'s script.
    pub fn script(&self, id: u64) -> &Script {
        &self.scripts[id as usize - 1]
    }

    /// Kills node `id`: its connections break, new ones are refused.
    pub fn kill(&self, id: u64) {
        self.nodes.lock().remove(&id).unwrap().shutdown_background();
    }

    /// Elects `id` for `group`, in a later term.
    pub fn elect(&self, group: u32, id: u64) {
        let mut state = self.state.lock();
        let term = state.leaders.get(&group).map_or(0, |l| l.1) + 1;
        state.leaders.insert(group, (id, term));
    }

    /// From now on group 2 begins with slot `first`, and no node goes by the map before.
    pub fn move_slots(&self, first: u32) {
        let mut state = self.state.lock();
        let metadata = &mut state.metadata;
        metadata.groups[0].slots[0].last = first - 1;
        metadata.groups[1].slots[0].first = first;
        metadata.epoch += 1;
        metadata.version += 1;
    }

    /// An image id that lives in `group`.
    pub fn id_in(&self, group: u32, n: usize) -> String {
        (0..).map(|i| format!("image-{n}-{i}")).find(|id| group_of(id) == group).unwrap()
    }
}

pub fn group_of(id: &str) -> u32 {
    (u32::from(slot_of(id)) / 1366) + 1
}

fn form(state: &mut State, addresses: &[SocketAddr]) {
    let groups = (0..GROUPS).map(|g| node::Group {
        group_id: g + 1,
        slots: vec![node::SlotRange { first: g * 1366, last: ((g + 1) * 1366 - 1).min(4095) }],
        replicas: (1..=NODES).collect(),
        ..Default::default()
    });
    state.metadata = node::Metadata {
        version: 1,
        cluster_id: "cluster".into(),
        epoch: 1,
        nodes: (1..)
            .zip(addresses)
            .map(|(node_id, a)| node::Node { node_id, address: a.to_string(), zone: "z".into(), ..Default::default() })
            .collect(),
        groups: groups.collect(),
        next_collection_uid: 1,
        encoder_space: Some(pb::VectorSpace { id: "omma-enc-test".into(), dimension: DIMENSION }),
        ..Default::default()
    };
    state.leaders = (1..=GROUPS).map(|g| (g, (u64::from(g), 1))).chain([(0, (1, 1))]).collect();
}

async fn serve(double: Double, listener: std::net::TcpListener) {
    let listener = TcpListener::from_std(listener).unwrap();
    let served = tonic::transport::Server::builder()
        .add_service(ShardServiceServer::new(double.clone()).max_decoding_message_size(64 << 20))
        .add_service(MetadataServiceServer::new(double))
        .serve_with_incoming(TcpIncoming::from(listener));
    served.await.unwrap();
}

/// A picture's embedding: its first four bytes.
pub fn embed(picture: &[u8]) -> Option<Vec<f32>> {
    let mut v: Vec<f32> = picture.get(..4)?.iter().map(|b| f32::from(*b) - 100.0).collect();
    vector::normalise(&mut v, DIMENSION as usize).ok().map(|()| v)
}

fn bad_picture() -> ApiError {
    ApiError::bad_field(Reason::InvalidPicture, "picture", "is damaged")
}

impl Double {
    /// Waits and fails as the script says.
    async fn misbehave(&self) -> Result<(), Status> {
        let delay = *self.script.delay.lock();
        tokio::time::sleep(delay).await;
        if self.script.down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("scripted"));
        }
        Ok(())
    }

    fn lead(&self, group: u32) -> Result<(), Status> {
        let state = self.state.lock();
        if state.dead_groups.contains(&group) {
            return Err(ApiError::new(Reason::GroupUnavailable, "no majority").into());
        }
        let leader = state.leaders[&group].0;
        if leader == self.id {
            return Ok(());
        }
        let address = state.metadata.nodes[leader as usize - 1].address.clone();
        let error = ApiError::new(Reason::NotLeader, "another leads");
        Err(error.with("leader_node_id", leader).with("leader_address", address).into())
    }

    fn admit(&self, target: Option<&node::Target>, lead: bool) -> Result<node::Target, Status> {
        let target = target.cloned().ok_or_else(|| Status::invalid_argument("target"))?;
        if lead {
            self.lead(target.group_id)?;
        }
        let state = self.state.lock();
        if state.dead_groups.contains(&target.group_id) {
            return Err(ApiError::new(Reason::GroupUnavailable, "no majority").into());
        }
        if state.dropped.contains(&(target.group_id, target.collection_uid)) {
            return Err(ApiError::new(Reason::CollectionNotFound, "dropped").into());
        }
        Ok(target)
    }

    fn put(&self, target: &node::Target, request: &node::PutImagesRequest) -> node::PutImagesResponse {
        let mut state = self.state.lock();
        let group = target.group_id;
        state.request_ids.push((group, request.request_id.clone()));
        let key = (group, request.request_id.clone());
        if let Some(results) = state.answers.get(&key) {
            return node::PutImagesResponse { results: results.clone(), applied_index: state.applied[&group] };
        }
        let mut results = vec![];
        for image in &request.images {
            let embedding = match image.content.as_ref().unwrap() {
                Content::Picture(p) => embed(p),
                Content::Embedding(e) => Some(e.values.clone()),
            };
            let records = state.records.entry(group).or_default();
            let result = match embedding {
                None => pb::PutResult { error: Some(bad_picture().to_rpc_status()), ..Default::default() },
                Some(v) => {
                    let key = (target.collection_uid, image.id.clone());
                    let old = records.insert(key, (v, image.attributes.clone()));
                    let effect = if old.is_some() { pb::PutEffect::Replaced } else { pb::PutEffect::Created };
                    pb::PutResult { effect: effect as i32, ..Default::default() }
                }
            };
            results.push(pb::PutResult { id: image.id.clone(), ..result });
        }
        let applied = state.applied.entry(group).or_default();
        *applied += 1;
        let applied_index = *applied;
        state.answers.insert(key, results.clone());
        node::PutImagesResponse { results, applied_index }
    }
}

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

#[tonic::async_trait]
impl MetadataService for Double {
    async fn get_metadata(
        &self,
        request: Request<node::GetMetadataRequest>,
    ) -> Result<Response<node::GetMetadataResponse>, Status> {
        if self.script.down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("scripted"));
        }
        let request = request.into_inner();
        if request.linearizable {
            self.lead(0)?;
        }
        let state = self.state.lock();
        let leaders = state.leaders.iter().map(|(&group_id, &(leader_node_id, term))| node::LeaderHint {
            group_id,
            leader_node_id,
            term,
        });
        let news = state.metadata.version > request.known_version;
        let metadata = news.then(|| state.metadata.clone());
        Ok(Response::new(node::GetMetadataResponse { metadata, leaders: leaders.collect() }))
    }

    async fn propose_metadata(
        &self,
        request: Request<node::ProposeMetadataRequest>,
    ) -> Result<Response<node::ProposeMetadataResponse>, Status> {
        self.lead(0)?;
        let mut state = self.state.lock();
        let metadata = &mut state.metadata;
        let refusal = |r: node::MetadataRefusal| Outcome::Refusal(r as i32);
        let at = |metadata: &node::Metadata, name: &str| {
            metadata.collections.iter().position(|c| c.collection.as_ref().unwrap().name == name)
        };
        let outcome = match request.into_inner().command.unwrap().command.unwrap() {
            Command::CreateCollection(c) => match at(metadata, &c.name) {
                Some(i) if metadata.collections[i].request_id == c.request_id => {
                    Outcome::Done(metadata.collections[i].collection.clone().unwrap())
                }
                Some(i) if metadata.collections[i].deleting => refusal(node::MetadataRefusal::CollectionDeleting),
                Some(_) => refusal(node::MetadataRefusal::CollectionExists),
                None => {
                    let collection = pb::Collection {
                        name: c.name,
                        uid: metadata.next_collection_uid,
                        vector_space: c.vector_space,
                        create_time: c.create_time,
                        image_count: 0,
                        quantization: c.quantization,
                    };
                    metadata.next_collection_uid += 1;
                    metadata.collections.push(node::CollectionEntry {
                        collection: Some(collection.clone()),
                        deleting: false,
                        request_id: c.request_id,
                    });
                    Outcome::Done(collection)
                }
            },
            Command::MarkCollectionDeleting(m) => match at(metadata, &m.name) {
                None => refusal(node::MetadataRefusal::CollectionNotFound),
                Some(i) if metadata.collections[i].deleting => refusal(node::MetadataRefusal::CollectionDeleting),
                Some(i) => {
                    metadata.collections[i].deleting = true;
                    Outcome::Done(metadata.collections[i].collection.clone().unwrap())
                }
            },
            Command::RemoveCollection(r) if metadata.groups.iter().any(|g| g.group_id > r.last_group_id) => {
                refusal(node::MetadataRefusal::StaleEpoch)
            }
            Command::RemoveCollection(r) => {
                metadata.collections.retain(|c| c.collection.as_ref().unwrap().uid != r.collection_uid);
                Outcome::Done(pb::Collection::default())
            }
            _ => refusal(node::MetadataRefusal::Invalid),
        };
        metadata.version += 1;
        let version = metadata.version;
        let outcome = node::MetadataOutcome { outcome: Some(outcome), version };
        Ok(Response::new(node::ProposeMetadataResponse { outcome: Some(outcome) }))
    }

    async fn discover(&self, _: Request<node::DiscoverRequest>) -> Result<Response<node::DiscoverResponse>, Status> {
        Err(Status::unimplemented("not asked by coordinators"))
    }

    async fn join(&self, _: Request<node::JoinRequest>) -> Result<Response<node::JoinResponse>, Status> {
        Err(Status::unimplemented("not asked by coordinators"))
    }
}
