//! Groups of real replicas over loopback gRPC, in one process.

mod hosts;
mod leaders;
mod members;
mod proposals;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::deadline::Deadline;
use omma_common::ids::{GroupId, NodeId};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::state_machine::StateMachine;
use super::test_state::{Disk, MemoryState};
use super::*;
use crate::api::raft::RaftApi;
use crate::room::Room;

const GROUP: GroupId = 1;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A running node.
struct Node {
    host: Arc<GroupHost>,
    replica: Replica,
    state: Arc<MemoryState>,
    server: JoinHandle<()>,
}

/// What outlives a node's process.
struct Place {
    folder: PathBuf,
    disk: Arc<Disk>,
}

struct Cluster {
    dir: tempfile::TempDir,
    timings: RaftTimings,
    addresses: AddressBook,
    places: BTreeMap<NodeId, Place>,
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    /// Nodes that know nothing of each other yet.
    async fn idle(nodes: u64, timings: RaftTimings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addresses = AddressBook::default();
        let mut cluster = Self { dir, timings, addresses, places: BTreeMap::new(), nodes: BTreeMap::new() };
        for id in 1..=nodes {
            cluster.start(id).await;
        }
        cluster
    }

    /// A group of all nodes, with a leader.
    async fn formed(nodes: u64, timings: RaftTimings) -> Self {
        let cluster = Self::idle(nodes, timings).await;
        let members: Vec<_> = (1..=nodes).map(|id| (id, cluster.addresses.get(id).unwrap())).collect();
        for node in cluster.nodes.values() {
            assert!(!node.replica.is_initialised().await.unwrap());
        }
        for node in cluster.nodes.values() {
            node.replica.initialise(&members).await.unwrap();
            node.replica.initialise(&members).await.unwrap();
        }
        cluster.leader().await;
        cluster
    }

    async fn start(&mut self, id: NodeId) {
        let new = || Place { folder: self.dir.path().join(id.to_string()), disk: Arc::default() };
        let place = self.places.entry(id).or_insert_with(new);
        let (folder, timings, addresses) = (place.folder.clone(), self.timings.clone(), self.addresses.clone());
        let host = tokio::task::spawn_blocking(move || {
            GroupHost::open(&folder, id, timings, addresses, Default::default(), Room::unchecked()).unwrap()
        });
        let host = host.await.unwrap();
        let state = MemoryState::on(&place.disk);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.addresses.set(id, listener.local_addr().unwrap().to_string());
        let service = RaftApi::service(host.clone());
        let server = tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        let replica = host.start(GROUP, state.clone() as Arc<dyn StateMachine>).await.unwrap();
        self.nodes.insert(id, Node { host, replica, state, server });
    }

    /// Without warning to the others.
    async fn kill(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).unwrap();
        node.server.abort();
        node.host.shutdown().await;
    }

    /// Loses log and state.
    fn wipe(&mut self, id: NodeId) {
        assert!(!self.nodes.contains_key(&id));
        std::fs::remove_dir_all(self.places.remove(&id).unwrap().folder).unwrap();
    }

    fn replica(&self, id: NodeId) -> &Replica {
        &self.nodes[&id].replica
    }

    /// The leader that a majority of the running nodes agrees on.
    async fn leader(&self) -> NodeId {
        let begun = Instant::now();
        loop {
            let states: Vec<_> = self.nodes.values().map(|n| n.replica.status()).collect();
            let leads = |id: &NodeId| self.nodes.get(id).is_some_and(|n| n.replica.status().role == Role::Leader);
            let leader = states
                .iter()
                .filter_map(|s| s.leader)
                .find(|id| leads(id) && states.iter().filter(|s| s.leader == Some(*id)).count() * 2 > states.len());
            if let Some(leader) = leader {
                return leader;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no leader: {states:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Proposes through whoever leads, until it is acknowledged.
    async fn propose(&self, command: &str) -> Proposed {
        let begun = Instant::now();
        loop {
            let leader = self.leader().await;
            match self.replica(leader).propose(Bytes::from(command.to_owned()), soon()).await {
                Ok(proposed) => return proposed,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All running replicas come to hold the same commands, which are returned.
    async fn converged(&self) -> Vec<Bytes> {
        let begun = Instant::now();
        loop {
            let applied: BTreeSet<_> = self.nodes.values().map(|n| n.replica.status().applied).collect();
            let commands: BTreeSet<_> = self.nodes.values().map(|n| n.state.commands()).collect();
            if applied.len() == 1 && commands.len() == 1 {
                return commands.into_iter().next().unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "applied {applied:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Changes members through `leader`, as they are now; tries again for as long as new voters lag.
    async fn change(&self, leader: NodeId, change: MemberChange) {
        let (replica, begun) = (self.replica(leader), Instant::now());
        while let Err(error) = replica.change_members(replica.status().members_index, change.clone(), soon()).await {
            assert!(matches!(error, GroupError::Membership { .. }), "{change:?}: {error}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{change:?}: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn add_learner(&self, leader: NodeId, node: NodeId) {
        let address = self.addresses.get(node).unwrap();
        self.change(leader, MemberChange::AddLearner { node, address }).await;
    }

    async fn end(mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.kill(id).await;
        }
    }
}
