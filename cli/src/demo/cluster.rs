//! A real cluster on loopback: one coordinator and three shard nodes, each a process.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omma_client::Omma;
use omma_client::proto::{Agreement, GetClusterStatusResponse};
use omma_common::telemetry::DEFAULT_FILTER;
use tokio::time::Instant;

use super::child::ServerProcess;
use crate::commands::serve::EncoderArgs;
use crate::exit::CliError;
use crate::processes::{ShardSettings, coordinator_flags};

pub(super) const NODES: usize = 3;
pub(super) const GROUPS: u32 = 3;
const REPLICATION: u32 = 3;
/// Between two looks at the cluster.
const LOOK: Duration = Duration::from_millis(50);

/// The processes, and a client of their coordinator.
pub(super) struct Cluster {
    coordinator: ServerProcess,
    shards: Vec<(String, ServerProcess)>,
    pub(super) omma: Omma,
    pub(super) endpoint: String,
}

impl Cluster {
    /// Starts the processes; returns before they are ready. Data and logs are in `folder`.
    pub(super) fn start(
        folder: &Path,
        encoder: &EncoderArgs,
        onnxruntime: PathBuf,
        timeout: Duration,
    ) -> Result<Self, CliError> {
        let addresses: Vec<String> = free_ports(NODES + 1)?.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        let (listen, peers) = addresses.split_at(1);
        let mut shards = Vec::new();
        for (i, address) in peers.iter().enumerate() {
            let name = format!("shard node {}", i + 1);
            let settings = ShardSettings {
                data: folder.join(format!("shard-{}", i + 1)),
                address: address.clone(),
                peers: peers.to_vec(),
                groups: GROUPS,
                replication: REPLICATION,
                onnxruntime: onnxruntime.clone(),
                model: encoder.model.clone(),
                device: encoder.device.clone(),
                log: DEFAULT_FILTER.into(),
            };
            let log = folder.join(format!("shard-{}.log", i + 1));
            shards.push((address.clone(), ServerProcess::new(name, "shard", settings.flags(), log)));
        }
        let flags = coordinator_flags(&listen[0], peers, DEFAULT_FILTER);
        let log = folder.join("coordinator.log");
        let mut coordinator = ServerProcess::new("the coordinator".into(), "coordinator", flags, log);
        for (_, shard) in &mut shards {
            shard.start()?;
        }
        coordinator.start()?;
        let endpoint = format!("http://{}", listen[0]);
        let omma = Omma::builder(&endpoint).timeout(timeout).connect_lazily()?;
        Ok(Self { coordinator, shards, omma, endpoint })
    }

    /// An error if a process ended by itself.
    fn check(&mut self) -> Result<(), CliError> {
        self.coordinator.check()?;
        self.shards.iter_mut().try_for_each(|(_, shard)| shard.check())
    }

    /// Looks at the status until `settled`; returns that status and how long it took.
    pub(super) async fn wait_until(
        &mut self,
        what: &str,
        bound: Duration,
        settled: impl Fn(&GetClusterStatusResponse) -> bool,
    ) -> Result<(GetClusterStatusResponse, Duration), CliError> {
        let started = Instant::now();
        let quick = Omma::builder(&self.endpoint).retries(0).timeout(Duration::from_secs(3)).connect_lazily()?;
        loop {
            self.check()?;
            let last = match quick.status().await {
                Ok(status) if settled(&status) => return Ok((status, started.elapsed())),
                Ok(status) => summary(&status),
                Err(error) => error.to_string(),
            };
            if started.elapsed() > bound {
                return Err(self.gave_up(what, bound, &last));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn gave_up(&self, what: &str, bound: Duration, last: &str) -> CliError {
        let logs = self.shards.iter().map(|(_, shard)| shard).chain([&self.coordinator]);
        let tails: Vec<String> = logs.map(|p| format!("The end of the log of {}:\n{}", p.name(), p.tail())).collect();
        CliError::Failed(format!("waited {bound:?} until {what}, in vain. Last seen: {last}\n{}", tails.join("\n")))
    }

    /// The process that listens at `address`.
    pub(super) fn shard_at(&mut self, address: &str) -> Option<&mut ServerProcess> {
        self.shards.iter_mut().find(|(at, _)| at == address).map(|(_, shard)| shard)
    }
}

/// All nodes answer, all groups are there and have leaders that answer.
pub(super) fn is_ready(status: &GetClusterStatusResponse) -> bool {
    status.nodes.iter().filter(|node| node.reachable).count() == NODES
        && status.groups.len() == GROUPS as usize + 1
        && has_leaders(status)
}

/// Every group has a leader, and each leader answers.
pub(super) fn has_leaders(status: &GetClusterStatusResponse) -> bool {
    let reachable = |id: u64| status.nodes.iter().any(|node| node.node_id == id && node.reachable);
    !status.groups.is_empty() && status.groups.iter().all(|g| g.leader_node_id != 0 && reachable(g.leader_node_id))
}

/// All replicas of all groups answer, and their records are equal.
pub(super) fn all_equal(status: &GetClusterStatusResponse) -> bool {
    is_ready(status)
        && status.groups.iter().all(|group| {
            group.replicas.len() == REPLICATION as usize
                && group.replicas.iter().all(|replica| replica.reachable)
                && group.agreement() == Agreement::Equal
        })
}

fn summary(status: &GetClusterStatusResponse) -> String {
    let up = status.nodes.iter().filter(|node| node.reachable).count();
    let led = status.groups.iter().filter(|group| group.leader_node_id != 0).count();
    let equal = status.groups.iter().filter(|group| group.agreement() == Agreement::Equal).count();
    let groups = status.groups.len();
    format!("{up} nodes answer; of {groups} groups {led} have a leader and {equal} have equal replicas")
}

/// Ports that are free now. Another process could take one before ours does: then ours says so in its log.
fn free_ports(count: usize) -> Result<Vec<u16>, CliError> {
    let finding = |source| CliError::Io { what: "find free ports on 127.0.0.1".into(), source };
    // All at once, so that they differ.
    let held = (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>().map_err(finding)?;
    held.iter().map(|listener| listener.local_addr().map(|a| a.port())).collect::<Result<_, _>>().map_err(finding)
}

#[cfg(test)]
mod tests {
    use omma_client::proto::{GroupStatus, NodeStatus, ReplicaStatus};

    use super::*;

    fn status() -> GetClusterStatusResponse {
        let replica = |node_id| ReplicaStatus { node_id, reachable: true, ..Default::default() };
        let group = |group_id| GroupStatus {
            group_id,
            leader_node_id: 1,
            replicas: (1..=3).map(replica).collect(),
            agreement: Agreement::Equal.into(),
            ..Default::default()
        };
        let node = |node_id| NodeStatus { node_id, reachable: true, ..Default::default() };
        GetClusterStatusResponse {
            nodes: (1..=3).map(node).collect(),
            groups: (0..=GROUPS).map(group).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_dead_leader_is_no_leader() {
        let mut status = status();
        assert!(is_ready(&status) && all_equal(&status));
        status.nodes[0].reachable = false;
        assert!(!has_leaders(&status) && !is_ready(&status));
        status.groups.iter_mut().for_each(|group| group.leader_node_id = 2);
        assert!(has_leaders(&status) && !is_ready(&status));
    }

    #[test]
    fn equal_means_all_replicas_of_all_groups() {
        let mut behind = status();
        behind.groups[2].agreement = Agreement::CatchingUp.into();
        let mut gone = status();
        gone.groups[0].replicas[1].reachable = false;
        let mut missing = status();
        missing.groups.pop();
        assert!(![behind, gone, missing].iter().any(all_equal));
    }

    #[test]
    fn ports_differ() {
        let ports = free_ports(4).unwrap();
        assert_eq!(ports.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    }
}
