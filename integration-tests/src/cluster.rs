//! A real cluster on loopback: processes, ports, data folders, logs; and the harm that tests do to it.
//!
//! Only one cluster at a time runs in a test process: two of them on two cores would time each other out.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use omma_proto::v1::GetClusterStatusResponse;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::client::Client;
use crate::convergence::{Shape, not_converged, not_near, not_ready};
use crate::folders::{binary, target_folder};
use crate::network::{Network, Party};
use crate::ports::free_port;
use crate::process::Process;
use crate::runtime::onnxruntime;
use crate::secured::Secured;
use crate::watchdog::Watchdog;

/// Until a cluster serves, at most.
const READY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// How far apart the replicas of a group may be while it is written to.
const NEAR: u64 = 100;
const LOG_TAIL: u64 = 4_000;

static GATE: Semaphore = Semaphore::const_new(1);

/// What to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Names its logs (`target/cluster-logs/NAME`): the test's name.
    pub name: String,
    /// `omma-shard` processes.
    pub shard_nodes: usize,
    /// `omma-coordinator` processes.
    pub coordinators: usize,
    /// Shard groups.
    pub groups: usize,
    /// Replicas of each.
    pub replication: usize,
    /// More flags for `omma-shard`.
    pub shard_flags: Vec<String>,
    /// Whether all calls to shard nodes go through a [`Network`] that can be harmed.
    pub proxied: bool,
    /// What the shard nodes run: `omma-shard`, or a build of it that is broken on purpose.
    pub shard_binary: String,
    /// More environment for shard nodes.
    pub environment: Vec<(String, String)>,
    /// More flags for `omma-coordinator`.
    pub coordinator_flags: Vec<String>,
    /// Under TLS on all ports, and with API keys.
    pub secured: bool,
}

impl ClusterOptions {
    /// Three shard nodes, three groups, replication three, one coordinator.
    pub fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self {
            name,
            shard_nodes: 3,
            coordinators: 1,
            groups: 3,
            replication: 3,
            shard_flags: Vec::new(),
            proxied: false,
            shard_binary: "omma-shard".to_owned(),
            environment: Vec::new(),
            coordinator_flags: Vec::new(),
            secured: false,
        }
    }

    /// One node that holds everything.
    pub fn single(name: &str) -> Self {
        Self { shard_nodes: 1, groups: 1, replication: 1, ..Self::named(name) }
    }

    /// Adds flags for `omma-shard`.
    #[must_use]
    pub fn shard_flags(mut self, flags: &[&str]) -> Self {
        self.shard_flags.extend(flags.iter().map(|&f| f.to_owned()));
        self
    }

    /// Adds flags for `omma-coordinator`.
    #[must_use]
    pub fn coordinator_flags(mut self, flags: &[&str]) -> Self {
        self.coordinator_flags.extend(flags.iter().map(|&f| f.to_owned()));
        self
    }

    /// Adds flags for both servers.
    #[must_use]
    pub fn flags(self, flags: &[&str]) -> Self {
        self.coordinator_flags(flags).shard_flags(flags)
    }

    /// TLS on all ports, and API keys.
    #[must_use]
    pub fn secured(mut self) -> Self {
        self.secured = true;
        self
    }
}

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
    /// Starts a cluster and waits until it serves.
    ///
    /// # Errors
    /// If a binary or the runtime library is missing, or it does not serve within a minute (with the logs' tails).
    pub async fn start(options: ClusterOptions) -> Result<Self> {
        let gate = GATE.acquire().await?;
        let cluster = Self::spawn(options, gate, &onnxruntime().await?)?;
        cluster.wait_ready(READY).await?;
        Ok(cluster)
    }

    fn spawn(options: ClusterOptions, gate: SemaphorePermit<'static>, runtime: &Path) -> Result<Self> {
        let target = target_folder()?;
        let logs = target.join("cluster-logs").join(&options.name);
        if logs.exists() {
            std::fs::remove_dir_all(&logs)?;
        }
        std::fs::create_dir_all(&logs)?;
        let run = target.join("cluster-data").join(format!("{}-{}", options.name, std::process::id()));
        std::fs::create_dir_all(&run)?;
        let watchdog = Watchdog::over(&run)?;
        let secured = options.secured.then(|| Secured::new(&run)).transpose()?;

        let addresses: Vec<String> = addresses(options.shard_nodes)?;
        let peers = addresses.join(",");
        let mut network = options.proxied.then(|| Network::new(&run));
        let tls = secured.iter().flat_map(|s| s.peer_flags("shard")).collect();
        let (runtime, peers_of_first_boot) = (runtime.to_owned(), peers.clone());
        let places = Places { run: run.clone(), logs: logs.clone(), runtime, peers: peers_of_first_boot, tls };
        let mut shards = Vec::new();
        for (i, address) in addresses.iter().enumerate() {
            shards.push(shard(&options, &places, network.as_mut(), i, address)?);
        }
        let mut coordinators = Vec::new();
        for (i, address) in self::addresses(options.coordinators)?.into_iter().enumerate() {
            let admin = new_address()?;
            let mut arguments = flags(&[("--listen", &address), ("--admin-listen", &admin), ("--shard-nodes", &peers)]);
            arguments.extend(options.coordinator_flags.iter().cloned());
            arguments.extend(secured.iter().flat_map(|s| [s.peer_flags("coordinator"), s.public_flags()].concat()));
            let name = Party::Coordinator(i).to_string();
            let log = logs.join(format!("{name}.log"));
            let process = Process::new(name, binary("omma-coordinator")?, arguments, log, &run);
            coordinators.push(Coordinator { process, address, admin });
        }
        let cluster =
            Self { options, shards, coordinators, network, places, secured, _watchdog: watchdog, _gate: gate };
        for process in cluster.processes() {
            process.start()?;
        }
        Ok(cluster)
    }

    /// Starts one more node, which joins the cluster; returns its number.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn add_node(&mut self) -> Result<usize> {
        let node = self.shards.len();
        let address = addresses(1)?.remove(0);
        let shard = shard(&self.options, &self.places, self.network.as_mut(), node, &address)?;
        shard.process.start()?;
        self.shards.push(shard);
        Ok(node)
    }

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

    /// kill -9.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn kill(&self, node: usize) -> Result<()> {
        self.shard(node)?.process.kill();
        Ok(())
    }

    /// kill -9 of all shard nodes.
    ///
    /// # Errors
    /// If a signal cannot be sent.
    pub fn kill_all(&self) -> Result<()> {
        // First stopped, so that none sees another one die: as when the power fails.
        for shard in &self.shards {
            shard.process.signal("STOP")?;
        }
        self.shards.iter().for_each(|s| s.process.kill());
        Ok(())
    }

    /// Starts a killed node again, with its data.
    ///
    /// # Errors
    /// If it runs or cannot be started.
    pub fn restart(&self, node: usize) -> Result<()> {
        self.shard(node)?.process.start()
    }

    /// SIGSTOP: the process is there but does nothing.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self, node: usize) -> Result<()> {
        self.shard(node)?.process.signal("STOP")
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self, node: usize) -> Result<()> {
        self.shard(node)?.process.signal("CONT")
    }

    /// Deletes a killed node's data.
    ///
    /// # Errors
    /// If it runs or the folder cannot be deleted.
    pub fn wipe(&self, node: usize) -> Result<()> {
        let shard = self.shard(node)?;
        if shard.process.pid().is_some() {
            bail!("shard node {node} runs; kill it first");
        }
        std::fs::remove_dir_all(&shard.data)?;
        Ok(())
    }

    /// Waits until the coordinators are healthy and every group has a leader.
    ///
    /// # Errors
    /// If that takes longer than `patience` or a process ended (with the logs' tails).
    pub async fn wait_ready(&self, patience: Duration) -> Result<()> {
        self.wait("ready", patience, async |cluster: &Self| {
            for Coordinator { address, .. } in &cluster.coordinators {
                let mut health = HealthClient::new(cluster.connect(address)?.channel());
                let answer = health.check(HealthCheckRequest::default()).await?.into_inner();
                if answer.status() != ServingStatus::Serving {
                    bail!("{address} is {:?}", answer.status());
                }
            }
            not_ready(&cluster.status().await?, cluster.shape()).map_or(Ok(()), |why| Err(anyhow!(why)))
        })
        .await
    }

    /// Waits until all nodes are back and all replicas of every group are equal; returns that status.
    ///
    /// # Errors
    /// If that takes longer than `patience` or a process ended (with the logs' tails).
    pub async fn wait_converged(&self, patience: Duration) -> Result<GetClusterStatusResponse> {
        self.wait("converged", patience, async |cluster: &Self| {
            let status = cluster.status().await?;
            not_converged(&status, cluster.shape()).map_or(Ok(status), |why| Err(anyhow!(why)))
        })
        .await
    }

    /// Waits until all replicas are reachable and none is more than [`NEAR`] entries behind: as near to equal as it
    /// gets while images are written.
    ///
    /// # Errors
    /// If that takes longer than `patience` or a process ended (with the logs' tails).
    pub async fn wait_near(&self, patience: Duration) -> Result<GetClusterStatusResponse> {
        self.wait("near", patience, async |cluster: &Self| {
            let status = cluster.status().await?;
            not_near(&status, cluster.shape(), NEAR).map_or(Ok(status), |why| Err(anyhow!(why)))
        })
        .await
    }

    /// Tries until `check` passes; it sees the status.
    ///
    /// # Errors
    /// If that takes longer than `patience` or a process ended (with the logs' tails).
    pub async fn wait_until<T>(
        &self,
        what: &str,
        patience: Duration,
        check: impl AsyncFn(&Self, GetClusterStatusResponse) -> Result<T>,
    ) -> Result<T> {
        self.wait(what, patience, async |cluster: &Self| check(cluster, cluster.status().await?).await).await
    }

    /// Tries until `check` passes.
    async fn wait<T>(&self, what: &str, patience: Duration, check: impl AsyncFn(&Self) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            let outcome = match tokio::time::timeout(Duration::from_secs(10), check(self)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(anyhow!("the check hung")),
            };
            let why = match outcome {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            if let Some((process, status)) = self.processes().find_map(|p| Some((p, p.ended()?))) {
                bail!("{} ended by itself ({status}) while waiting until {what}{}", process.name(), self.log_tails());
            }
            if begin.elapsed() > patience {
                bail!("not {what} after {patience:?}: {why:#}{}", self.log_tails());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_tails(&self) -> String {
        self.processes().map(|p| format!("\n--- {}\n{}", p.name(), p.log_tail(LOG_TAIL))).collect()
    }
}

/// Shard node `i`, not started yet.
fn shard(
    options: &ClusterOptions,
    places: &Places,
    network: Option<&mut Network>,
    i: usize,
    address: &str,
) -> Result<Shard> {
    let (admin, data) = (new_address()?, places.run.join(format!("shard-{i}")));
    let listen = match network {
        None => address.to_owned(),
        Some(network) => {
            let behind = new_address()?;
            network.proxy(Party::Shard(i), address, &behind)?;
            behind
        }
    };
    let mut arguments = flags(&[
        ("--listen", &listen),
        ("--advertise", address),
        ("--admin-listen", &admin),
        ("--data", &data.display().to_string()),
        ("--peers", &places.peers),
        ("--groups", &options.groups.to_string()),
        ("--replication", &options.replication.to_string()),
        ("--onnxruntime", &places.runtime.display().to_string()),
        ("--device", "cpu"),
    ]);
    arguments.extend(options.shard_flags.iter().chain(&places.tls).cloned());
    let name = Party::Shard(i).to_string();
    let log = places.logs.join(format!("{name}.log"));
    let process = Process::new(name, binary(&options.shard_binary)?, arguments, log, &places.run);
    Ok(Shard { process: process.environment(&options.environment), address: address.to_owned(), admin, data })
}

fn addresses(n: usize) -> Result<Vec<String>> {
    (0..n).map(|_| new_address()).collect()
}

fn new_address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", free_port()?))
}

fn flags(pairs: &[(&str, &str)]) -> Vec<String> {
    pairs.iter().flat_map(|&(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
}
