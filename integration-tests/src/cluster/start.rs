//! Starting a cluster's processes: addresses, folders and flags.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::{Cluster, ClusterOptions, Coordinator, Places, Shard};
use crate::folders::{binary, target_folder};
use crate::network::{Network, Party};
use crate::ports::free_port;
use crate::process::Process;
use crate::runtime::onnxruntime;
use crate::secured::Secured;
use crate::watchdog::Watchdog;

/// Until a cluster serves, at most.
const READY: Duration = Duration::from_secs(60);

static GATE: Semaphore = Semaphore::const_new(1);

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
