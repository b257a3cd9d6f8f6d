//! Full disks: writes are refused with what to do, reads go on, and with room everything goes on.
//!
//! A node's data folder is a small file system in memory. That takes root on Linux; SKIPPED elsewhere.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_common::error::Reason;
use omma_integration_tests::admin;
use omma_integration_tests::client::{Client, by_vector, ids, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::disks::{Disk, can_mount};
use omma_integration_tests::note;
use omma_integration_tests::refusal::Refusal;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use tokio::time::Instant;

const COLLECTION: &str = "full";
const DIMENSION: usize = 256;
const DISK: u64 = 128 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// Takes room from a disk until so many bytes are left.
fn leave(disk: &Disk, folder: &Path, left: u64) -> Result<()> {
    let free = DISK - disk.used()?;
    ensure!(free > left, "only {free} bytes are free");
    Ok(std::fs::write(folder.join("ballast"), vec![1; (free - left) as usize])?)
}

fn give_back(folder: &Path) -> Result<()> {
    Ok(std::fs::remove_file(folder.join("ballast"))?)
}

struct Images {
    vectors: Vec<Vec<f32>>,
    put: usize,
}

impl Images {
    fn new(seed: u64) -> Self {
        let mut rng = generator(seed, 0);
        Self { vectors: (0..4_000).map(|_| unit_vector(&mut rng, DIMENSION)).collect(), put: 0 }
    }

    /// Puts some more; they count only if they are acknowledged.
    async fn put(&mut self, client: &Client, count: usize) -> Result<(), tonic::Status> {
        let image = |i: usize| vector_image(&format!("i{i}"), self.vectors[i].clone());
        let images = (self.put..self.put + count).map(image).collect();
        let answer = client.put(COLLECTION, images).await?;
        match answer.results.iter().find_map(|r| r.error.clone()) {
            Some(error) => Err(tonic::Status::new(error.code.into(), error.message)),
            None => {
                self.put += count;
                Ok(())
            }
        }
    }

    async fn all_there(&self, client: &Client) -> Result<()> {
        for i in (0..self.put).step_by((self.put / 60).max(1)) {
            ensure!(client.get(COLLECTION, &format!("i{i}")).await?.is_some(), "i{i} is acknowledged and gone");
            let found = client.search(COLLECTION, by_vector(&self.vectors[i]), 1).await?;
            ensure!(ids(&found) == [format!("i{i}")], "i{i} is not found: {found:?}");
        }
        Ok(())
    }
}

/// A cluster with a disk of its own under node `node`.
async fn start(options: ClusterOptions, node: usize) -> Result<(Cluster, Client, Disk)> {
    let cluster = Cluster::start(options).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    cluster.kill(node)?;
    let disk = Disk::in_memory(cluster.data_folder(node)?, DISK)?;
    cluster.restart(node)?;
    cluster.wait_ready(PATIENCE).await?;
    cluster.wait_converged(PATIENCE).await?;
    Ok((cluster, client, disk))
}

#[tokio::test(flavor = "multi_thread")]
async fn nearly_full_refuses_images_and_recovers() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let options = ClusterOptions::single("nearly_full").shard_flags(&["--min-free-disk", "16"]);
    let (cluster, client, disk) = start(options, 0).await?;
    let folder = cluster.data_folder(0)?.to_owned();
    let mut images = Images::new(seed("nearly_full"));
    images.put(&client, 200).await?;
    leave(&disk, &folder, 12 << 20)?;
    let refused = Refusal::of_call(images.put(&client, 10).await);
    let put = client.put(COLLECTION, vec![vector_image("x", images.vectors[0].clone())]).await;
    let refused = refused.or_else(|_| Refusal::of_call(put))?;
    ensure!(refused.reason == Reason::DiskFull.name(), "{refused:?}");
    ensure!(refused.message.contains("Make room") && refused.message.contains("--min-free-disk"), "{refused:?}");
    images.all_there(&client).await?;
    ensure!(client.delete(COLLECTION, &["i199"]).await?.deleted_count == 1, "deletions make room");
    images.put -= 1;

    // A node that starts while there is too little room to open a store waits for it.
    cluster.kill(0)?;
    std::fs::remove_file(folder.join("ballast"))?;
    leave(&disk, &folder, 1 << 20)?;
    cluster.restart(0)?;
    let begin = Instant::now();
    while !cluster.shard_process(0)?.log()?.contains("the node starts when there is room") {
        ensure!(begin.elapsed() < PATIENCE && cluster.shard_process(0)?.ended().is_none());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // It says so: its metrics are what an alert goes by.
    let shown = admin::metrics(cluster.admin_ports()[0]).await?;
    let [free, kept] = ["omma_disk_free_bytes", "omma_disk_kept_free_bytes"].map(|name| admin::sum(&shown, name, &[]));
    ensure!(free.zip(kept).is_some_and(|(free, kept)| free < kept), "{free:?} free, {kept:?} kept");
    give_back(&folder)?;
    cluster.wait_ready(PATIENCE).await?;
    images.put(&client, 100).await?;
    images.all_there(&client).await?;
    cluster.kill(0)?;
    drop(disk);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow; see CONTRIBUTING.md"]
async fn a_disk_that_is_full_before_anybody_looks_costs_nothing_acknowledged() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let options = ClusterOptions::single("really_full").shard_flags(&["--min-free-disk", "0"]);
    let (cluster, client, disk) = start(options, 0).await?;
    let folder = cluster.data_folder(0)?.to_owned();
    let mut images = Images::new(seed("really_full"));
    images.put(&client, 200).await?;
    leave(&disk, &folder, 1 << 20)?;
    let process = cluster.shard_process(0)?;
    let begin = Instant::now();
    while process.ended().is_none() {
        ensure!(begin.elapsed() < PATIENCE, "4,000 images fit: {}", images.put);
        // Until the disk is full; then unknown, until the process has ended.
        let _ = tokio::time::timeout(Duration::from_secs(2), images.put(&client, 20)).await;
    }
    let said = process.log_tail(3_000);
    ensure!(said.contains("is full: make room on it"), "{said}");
    note!("{} images acknowledged before the disk was full", images.put);
    process.kill();
    give_back(&folder)?;
    cluster.restart(0)?;
    cluster.wait_ready(PATIENCE).await?;
    images.all_there(&client).await?;
    cluster.kill(0)?;
    drop(disk);
    Ok(())
}

/// Shard groups that a node leads.
async fn led(cluster: &Cluster, node: usize) -> Result<usize> {
    let status = cluster.status().await?;
    let leads = |leader: u64| cluster.node_by_id(&status, leader).is_ok_and(|l| l == node);
    Ok(status.groups.iter().filter(|g| g.group_id != 0 && leads(g.leader_node_id)).count())
}

/// Waits until a node leads something.
async fn leads(cluster: &Cluster, node: usize) -> Result<()> {
    let begin = Instant::now();
    while led(cluster, node).await? == 0 {
        ensure!(begin.elapsed() < PATIENCE, "node {node} leads nothing");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_room_hands_over_and_writes_go_on() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let options = ClusterOptions::named("full_leader").shard_flags(&["--min-free-disk", "16"]);
    let (cluster, client, disk) = start(options, 0).await?;
    let folder = cluster.data_folder(0)?.to_owned();
    leads(&cluster, 0).await.context("the node that was away")?;
    let mut images = Images::new(seed("full_leader"));
    images.put(&client, 200).await?;
    leave(&disk, &folder, 10 << 20)?;
    let begin = Instant::now();
    // Of so many images some are of each group.
    while let Err(status) = images.put(&client, 50).await {
        ensure!(begin.elapsed() < PATIENCE, "the cluster has room, and refuses: {status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    note!("images of all groups are taken {:.1?} after the disk of a leader was nearly full", begin.elapsed());
    for _ in 0..10 {
        images.put(&client, 20).await?;
    }
    ensure!(led(&cluster, 0).await? == 0, "a node without room leads");
    images.all_there(&client).await?;
    give_back(&folder)?;
    leads(&cluster, 0).await.context("with room again")?;
    images.put(&client, 50).await?;
    cluster.wait_converged(PATIENCE).await?;
    images.all_there(&client).await?;
    cluster.kill(0)?;
    drop(disk);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow; see CONTRIBUTING.md"]
async fn a_follower_without_room_lags_and_catches_up() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let options = ClusterOptions { groups: 1, ..ClusterOptions::named("full_follower") };
    let options = options.shard_flags(&["--min-free-disk", "16", "--snapshot-every", "20", "--keep-logs", "10"]);
    let cluster = Cluster::start(options).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let status = cluster.status().await?;
    let leader = status.groups.iter().find(|g| g.group_id == 1).map_or(0, |g| g.leader_node_id);
    let follower = (0..3).find(|n| cluster.node_by_id(&status, leader).is_ok_and(|l| l != *n)).unwrap_or_default();
    cluster.kill(follower)?;
    let folder = cluster.data_folder(follower)?.to_owned();
    let disk = Disk::in_memory(&folder, DISK)?;
    cluster.restart(follower)?;
    cluster.wait_converged(PATIENCE).await?;
    let mut images = Images::new(seed("full_follower"));
    images.put(&client, 100).await?;
    leave(&disk, &folder, 2 << 20)?;
    for _ in 0..40 {
        images.put(&client, 20).await?;
    }
    ensure!(cluster.shard_process(follower)?.ended().is_none(), "the node with the full disk has ended");
    let lag = |status: &omma_proto::v1::GetClusterStatusResponse| {
        let group = status.groups.iter().find(|g| g.group_id == 1);
        let applied = |r: &omma_proto::v1::ReplicaStatus| r.applied_index;
        let all: Vec<u64> = group.iter().flat_map(|g| &g.replicas).map(applied).collect();
        all.iter().max().unwrap_or(&0) - all.iter().min().unwrap_or(&0)
    };
    let behind = lag(&cluster.status().await?);
    ensure!(behind >= 30, "the follower takes entries without room: {behind} behind");
    give_back(&folder)?;
    let begin = Instant::now();
    cluster.wait_converged(PATIENCE).await?;
    note!("{behind} entries behind, caught up {:.1?} after there was room", begin.elapsed());
    images.all_there(&client).await?;
    cluster.kill(follower)?;
    drop(disk);
    Ok(())
}
