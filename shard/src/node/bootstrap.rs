//! How nodes become a cluster, and how one that comes later gets in.
//!
//! A node that finds any peer in a cluster, or on the way to one, joins it and never forms another. Only when *all*
//! peers of the list answer and none of them knows of a cluster does the one with the smallest id begin: it makes the
//! metadata group of them. Whoever leads that group then gives the cluster its id and its first placement; so the
//! death of any node at any point only delays this.

use std::collections::BTreeMap;
use std::time::Duration;

use omma_common::deadline::Deadline;
use omma_common::error::{Reason, reason_of};
use omma_common::ids::NodeId;
use omma_common::retry::Backoff;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::{self as internal, DiscoverResponse, FormCluster, JoinRequest, MetadataCommand};
use prost::Message;

use super::{Node, peers};
use crate::group::Role;
use crate::metadata::planner;

const PROPOSAL: Duration = Duration::from_secs(5);
/// A node says once in a while where it is, in case that it is known under an old address.
const STAY_KNOWN: Duration = Duration::from_secs(30);

impl Node {
    /// Whether this node knows which cluster it belongs to.
    pub(crate) fn in_cluster(&self) -> bool {
        !self.metadata.current().cluster_id.is_empty()
    }
}

/// Returns once this node knows its cluster.
pub(super) async fn find_cluster(node: &Node) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
    while !node.in_cluster() {
        if let Err(reason) = step(node).await {
            tracing::info!(%reason, "not in a cluster yet");
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
    tracing::info!(cluster_id = node.metadata.current().cluster_id, node_id = node.node_id, "in the cluster");
}

/// One try; the error says what it waits for.
async fn step(node: &Node) -> Result<(), String> {
    let found = discover_all(node).await;
    if node.metadata_replica.is_initialised().await.map_err(|e| e.to_string())? {
        return match node.metadata_replica.status().role {
            Role::Leader => form(node, &found.nodes).await,
            _ => Err("waiting for the metadata group's leader".to_owned()),
        };
    }
    let begun = |peer: &&DiscoverResponse| peer.forming || !peer.cluster_id.is_empty();
    if let Some(peer) = found.nodes.values().find(begun) {
        // As a founding member this node is told by Raft; otherwise it has to ask.
        if peer.cluster_id.is_empty() {
            return Err(format!("{} is forming a cluster", peer.address));
        }
        return join_any(node).await;
    }
    if let Some((address, reason)) = found.missing.first() {
        return Err(format!("waiting for {} of {} peers: {address}: {reason}", found.missing.len(), found.asked));
    }
    match found.nodes.first_key_value() {
        Some((&first, _)) if first == node.node_id => begin(node, &found.nodes).await,
        Some((_, first)) => Err(format!("waiting for {} to begin", first.address)),
        None => Err("no peers".to_owned()),
    }
}

struct Found {
    asked: usize,
    /// By node id: a node that is listed twice counts once.
    nodes: BTreeMap<NodeId, DiscoverResponse>,
    missing: Vec<(String, String)>,
}

async fn discover_all(node: &Node) -> Found {
    let peers = &node.config.peers;
    let answers = futures::future::join_all(peers.iter().map(|address| peers::discover(&node.dialer, address))).await;
    let mut found = Found { asked: peers.len(), nodes: BTreeMap::new(), missing: Vec::new() };
    found.nodes.insert(node.node_id, node.discovery().await);
    for (address, answer) in peers.iter().zip(answers) {
        match answer {
            Ok(peer) => {
                node.addresses.set(peer.node_id, peer.address.clone());
                found.nodes.insert(peer.node_id, peer);
            }
            Err(status) => found.missing.push((address.clone(), status.message().to_owned())),
        }
    }
    found
}

/// Makes the metadata group. Doing it twice, even by different nodes with the same list, is harmless.
async fn begin(node: &Node, found: &BTreeMap<NodeId, DiscoverResponse>) -> Result<(), String> {
    check_encoders(node, found)?;
    let nodes: Vec<internal::Node> = found.values().map(described).collect();
    let first = planner::first_placement(&nodes, node.config.groups, node.config.replication);
    first.map_err(|e| format!("{e}: change --groups, --replication or --peers"))?;
    let members: Vec<(NodeId, String)> = planner::metadata_members(&nodes)
        .into_iter()
        .filter_map(|id| found.get(&id).map(|n| (id, n.address.clone())))
        .collect();
    node.metadata_replica.initialise(&members).await.map_err(|e| e.to_string())
}

/// Gives the cluster its id and its first placement. The state machine takes only the first of these.
async fn form(node: &Node, found: &BTreeMap<NodeId, DiscoverResponse>) -> Result<(), String> {
    if found.len() < node.config.peers.len() {
        return Err("waiting for all peers, to place the shard groups".to_owned());
    }
    check_encoders(node, found)?;
    let nodes: Vec<internal::Node> = found.values().map(described).collect();
    let groups =
        planner::first_placement(&nodes, node.config.groups, node.config.replication).map_err(|e| e.to_string())?;
    let form = FormCluster {
        cluster_id: uuid::Uuid::new_v4().to_string(),
        nodes,
        groups,
        encoder_space: Some(node.encoder_space()),
    };
    let command = MetadataCommand { command: Some(Command::FormCluster(form)) };
    let proposed = node.metadata_replica.propose(command.encode_to_vec().into(), Deadline::after(PROPOSAL)).await;
    proposed.map(drop).map_err(|e| e.to_string())
}

fn described(peer: &DiscoverResponse) -> internal::Node {
    let (address, zone) = (peer.address.clone(), peer.zone.clone());
    internal::Node { node_id: peer.node_id, address, zone, ..internal::Node::default() }
}

fn check_encoders(node: &Node, found: &BTreeMap<NodeId, DiscoverResponse>) -> Result<(), String> {
    let own = node.encoder_space();
    let other = found.values().find(|p| p.encoder.as_ref().and_then(|e| e.vector_space.as_ref()) != Some(&own));
    match other {
        None => Ok(()),
        Some(peer) => Err(format!(
            "the encoder of {} is not the one of this node ({}): give all nodes the same --model",
            peer.address, own.id
        )),
    }
}

/// Asks peers until one of them, the metadata leader, lets this node in.
async fn join_any(node: &Node) -> Result<(), String> {
    let known = node.metadata.current();
    let request = JoinRequest {
        node: Some(node.description()),
        cluster_id: known.cluster_id.clone(),
        encoder_space: Some(node.encoder_space()),
    };
    let known = known.nodes.iter().map(|n| n.address.clone());
    let mut last = "no peers".to_owned();
    for address in node.config.peers.iter().cloned().chain(known) {
        match peers::join(&node.dialer, &address, request.clone()).await {
            Ok(_) => return Ok(()),
            // Nobody else would say otherwise.
            Err(status) if reason_of(&status) == Some(Reason::NodeRemoved) => return Err(status.message().to_owned()),
            Err(status) => last = format!("{address}: {}", status.message()),
        }
    }
    Err(last)
}

/// Tells the cluster where this node is: at its start, and whenever the cluster has it otherwise or is not heard from,
/// for as long as it lives.
pub(super) async fn stay_known(node: &Node) {
    let own = node.description();
    let mut told = false;
    loop {
        let mut wait = STAY_KNOWN;
        let metadata = node.metadata.current();
        let known =
            metadata.nodes.iter().any(|n| (n.node_id, &n.address, &n.zone) == (own.node_id, &own.address, &own.zone));
        if !told || !known || node.metadata_replica.status().leader.is_none() {
            match join_any(node).await {
                Ok(()) => told = true,
                Err(reason) => {
                    tracing::warn!(%reason, "the cluster does not know where this node is");
                    wait = Duration::from_secs(1);
                }
            }
        }
        tokio::time::sleep(wait).await;
    }
}
