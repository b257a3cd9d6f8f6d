//! A double of a cluster of shard nodes: real gRPC servers on loopback over one set of in-memory records, searched by
//! brute force, that can be told to misbehave.
//!
//! [`Cluster`] starts them, and a coordinator in front; a [`double::Double`] answers as a node does, in [`shard`] for
//! images and in [`metadata`] for the cluster's.

mod double;
mod metadata;
mod shard;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::time::Duration;

use omma_common::shutdown::{Shutdown, Trigger, channel};
use omma_common::slot::slot_of;
use omma_coordinator::{CoordinatorConfig, RunError, run};
use omma_proto::internal::v1 as node;
use omma_proto::internal::v1::metadata_service_server::MetadataServiceServer;
use omma_proto::internal::v1::shard_service_server::ShardServiceServer;
use omma_proto::v1 as pb;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;

use double::Double;

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
