//! More than the cluster can do: what is served keeps its latency, the rest is refused early, and one client's flood is
//! that client's own wait. Slow; run by hand.

mod capacity;
mod flood;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use omma_integration_tests::client::{Client, picture_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, jpeg};
use omma_proto::v1::query::Target;

const COLLECTION: &str = "c";
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the shard node, in MiB: told to it, and not to be passed.
const NODE_MEMORY: u64 = 1024;

/// The share of `percent` that is faster than what is returned.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// One node and one coordinator, a client, and a picture that is stored as `known`.
async fn started(name: &str) -> Result<(Cluster, Client, Bytes)> {
    note!("load of the machine before: {}", std::fs::read_to_string("/proc/loadavg")?.trim());
    let memory = NODE_MEMORY.to_string();
    let options = ClusterOptions::single(name).secured().shard_flags(&["--memory-limit-mib", &memory]);
    let cluster = Cluster::start(options).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, None).await?;
    let picture = jpeg(&draw(1, 400, 300), 90)?;
    client.store(COLLECTION, vec![picture_image("known", picture.clone())], PATIENCE).await?;
    Ok((cluster, client, picture))
}

/// A search by the picture that is known; how long it took.
async fn search(client: &Client, picture: &Bytes) -> Result<Duration> {
    let begin = Instant::now();
    let found = client.search(COLLECTION, Target::Picture(picture.clone()), 1).await?;
    ensure!(found.hits.first().is_some_and(|h| h.id == "known"), "{found:?}");
    Ok(begin.elapsed())
}

/// That the shard node has kept to its bound so far.
fn memory_is_bounded(cluster: &Cluster) -> Result<()> {
    let (node, coordinator) = (cluster.shard_process(0)?.memory()?, cluster.coordinator_process(0)?.memory()?);
    let (node, coordinator) = (node.peak >> 20, coordinator.peak >> 20);
    note!("memory at peak: shard node {node} of {NODE_MEMORY} MiB, coordinator {coordinator} MiB");
    ensure!(node < NODE_MEMORY, "{node} MiB");
    Ok(())
}
