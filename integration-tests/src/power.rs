//! A node writes, the power fails, the node comes back: what is left of what was acknowledged?

use std::time::Duration;

use anyhow::Result;

use crate::client::Client;
use crate::cluster::{Cluster, ClusterOptions};
use crate::disks::Disk;
use crate::ingest::{Ingest, IngestOptions};

const COLLECTION: &str = "power";
const DIMENSION: usize = 32;
const DISK_BYTES: u64 = 192 << 20;
/// Acknowledged between two failures.
const WRITES: u64 = 150;
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets the power of a cluster of one node fail so often, under load; returns how many images were acknowledged, and
/// which of them are gone.
///
/// # Errors
/// If the node does not serve again.
pub async fn lost_in_power_failures(
    options: ClusterOptions,
    seed: u64,
    failures: usize,
) -> Result<(usize, Vec<String>)> {
    // The disk is smaller than what is kept free of a real one.
    let cluster = Cluster::start(options.shard_flags(&["--min-free-disk", "16"])).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    cluster.kill(0)?;
    let folder = cluster.data_folder(0)?;
    let disk = Disk::with_power_switch(folder, &folder.with_extension("image"), DISK_BYTES)?;
    cluster.restart(0)?;
    cluster.wait_ready(PATIENCE).await?;
    let mut acknowledged = Vec::new();
    for failure in 0..failures {
        let seed = seed.wrapping_add(failure as u64);
        let writes = write_until_off(&client, &cluster, &disk, seed, failure).await?;
        acknowledged.extend(writes);
        cluster.kill(0)?;
        disk.power_on()?;
        cluster.restart(0)?;
        cluster.wait_ready(PATIENCE).await?;
    }
    let mut lost = Vec::new();
    for id in &acknowledged {
        if client.get(COLLECTION, id).await?.is_none() {
            lost.push(id.clone());
        }
    }
    cluster.kill(0)?;
    drop(disk);
    Ok((acknowledged.len(), lost))
}

/// Writes until the power fails in the midst of it; returns what was acknowledged.
async fn write_until_off(
    client: &Client,
    cluster: &Cluster,
    disk: &Disk,
    seed: u64,
    failure: usize,
) -> Result<Vec<String>> {
    let options = IngestOptions { collection: COLLECTION.to_owned(), dimension: DIMENSION, writers: 4, seed };
    let prefix = format!("f{failure}-");
    let ingest = Ingest::begin_named(client, &options, &prefix);
    ingest.wait_for(WRITES, PATIENCE).await?;
    disk.power_off()?;
    // In this order: what is acknowledged after the failure would be a lie as well.
    tokio::time::sleep(Duration::from_millis(50)).await;
    cluster.kill(0)?;
    Ok(ingest.abandon().await)
}
