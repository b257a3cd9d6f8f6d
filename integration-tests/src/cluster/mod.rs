//! A real cluster on loopback: processes, ports, data folders, logs; and the harm that tests do to it.
//!
//! Only one cluster at a time runs in a test process: two of them on two cores would time each other out.

mod harm;
mod options;
mod start;
mod wait;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use omma_proto::v1::GetClusterStatusResponse;
use tokio::sync::SemaphorePermit;

pub use self::options::ClusterOptions;
use crate::client::Client;
use crate::convergence::Shape;
use crate::network::Network;
use crate::process::Process;
use crate::secured::Secured;
use crate::watchdog::Watchdog;

/// A running cluster. Dropping it kills its processes and deletes its data; the logs stay.
#[derive(Debug)]
pub struct Cluster {
    options: ClusterOptions,
    shards: Vec<Shard>,
    coordinators: Vec<Coordinator>,
    network: Option<Network>,
    places: Places,
    secured: Option<Secured>,
    // Dropped after the processes, before the gate opens.
    _watchdog: Watchdog,
    _gate: SemaphorePermit<'static>,
}

/// Where processes keep their things.
#[derive(Debug)]
struct Places {
    /// Data folders and pid files.
    run: PathBuf,
    logs: PathBuf,
    runtime: PathBuf,
    /// Of the first boot.
    peers: String,
    /// Flags of TLS, if there is.
    tls: Vec<String>,
}

#[derive(Debug)]
struct Shard {
    process: Process,
    address: String,
    admin: String,
    data: PathBuf,
}

#[derive(Debug)]
struct Coordinator {
    process: Process,
    address: String,
    admin: String,
}

impl Cluster {
    fn processes(&self) -> impl Iterator<Item = &Process> {
        self.shards.iter().map(|s| &s.process).chain(self.coordinators.iter().map(|c| &c.process))
    }

    fn shard(&self, node: usize) -> Result<&Shard> {
        self.shards.get(node).with_context(|| format!("there is no shard node {node}"))
    }

    fn coordinator(&self, i: usize) -> Result<&Coordinator> {
        self.coordinators.get(i).with_context(|| format!("there is no coordinator {i}"))
    }

    /// Where coordinator `i` listens (host:port).
    ///
    /// # Errors
    /// If there is none.
    pub fn coordinator_address(&self, i: usize) -> Result<&str> {
        Ok(&self.coordinator(i)?.address)
    }

    /// The process of coordinator `i`.
    ///
    /// # Errors
    /// If there is none.
    pub fn coordinator_process(&self, i: usize) -> Result<&Process> {
        Ok(&self.coordinator(i)?.process)
    }

    /// Admin ports: first the shard nodes', then the coordinators'.
    pub fn admin_ports(&self) -> Vec<&str> {
        let coordinators = self.coordinators.iter().map(|c| c.admin.as_str());
        self.shards.iter().map(|s| s.admin.as_str()).chain(coordinators).collect()
    }

    /// What it should look like.
    pub fn shape(&self) -> Shape {
        let o = &self.options;
        Shape { nodes: o.shard_nodes, groups: o.groups, replication: o.replication }
    }

    /// What calls to shard nodes go through.
    ///
    /// # Errors
    /// If the cluster was not started with `proxied`.
    pub fn network(&self) -> Result<&Network> {
        self.network.as_ref().context("the cluster was started without a network that can be harmed")
    }

    /// Number of coordinators.
    pub fn coordinators(&self) -> usize {
        self.coordinators.len()
    }

    /// Number of shard nodes.
    pub fn nodes(&self) -> usize {
        self.shards.len()
    }

    /// Where shard node `node` listens (host:port).
    ///
    /// # Errors
    /// If there is no such node.
    pub fn shard_address(&self, node: usize) -> Result<&str> {
        Ok(&self.shard(node)?.address)
    }

    /// The process of shard node `node`.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn shard_process(&self, node: usize) -> Result<&Process> {
        Ok(&self.shard(node)?.process)
    }

    /// The data folder of shard node `node`.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn data_folder(&self, node: usize) -> Result<&Path> {
        Ok(&self.shard(node)?.data)
    }

    /// Where the first coordinator listens (host:port).
    ///
    /// # Errors
    /// If there is none.
    pub fn address(&self) -> Result<&str> {
        Ok(&self.coordinator(0)?.address)
    }

    /// A new connection to the first coordinator.
    ///
    /// # Errors
    /// If there is none.
    pub fn client(&self) -> Result<Client> {
        self.connect(self.address()?)
    }

    fn connect(&self, address: &str) -> Result<Client> {
        match &self.secured {
            Some(secured) => Client::with_key(secured.channel(address)?, secured.key()),
            None => Client::to(address),
        }
    }

    /// Certificates and keys.
    ///
    /// # Errors
    /// If the cluster is not secured.
    pub fn secured(&self) -> Result<&Secured> {
        self.secured.as_ref().context("the cluster is not secured")
    }

    /// A new connection to coordinator `i`.
    ///
    /// # Errors
    /// If there is none.
    pub fn client_of(&self, i: usize) -> Result<Client> {
        self.connect(&self.coordinator(i)?.address)
    }

    /// The cluster's status, as the first coordinator sees it.
    ///
    /// # Errors
    /// The call's.
    pub async fn status(&self) -> Result<GetClusterStatusResponse> {
        Ok(self.client()?.status().await?)
    }

    /// The node's index here by its id in the cluster.
    ///
    /// # Errors
    /// If the status has no such node.
    pub fn node_by_id(&self, status: &GetClusterStatusResponse, node_id: u64) -> Result<usize> {
        let node = status.nodes.iter().find(|n| n.node_id == node_id);
        let address = &node.with_context(|| format!("no node {node_id:x} in the status"))?.address;
        self.shards.iter().position(|s| s.address == *address).with_context(|| format!("{address} is not ours"))
    }
}
