//! How long a restart takes with 100,000 vectors of 512 dimensions. Slow, so only when asked for:
//!
//! ```text
//! cargo build --release --workspace --bins --examples
//! cargo test --release -p omma-integration-tests --test restart_100k -- --ignored --nocapture
//! ```
//!
//! `OMMA_TEST_VECTORS` sets another number.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::{StreamExt, TryStreamExt};
use omma_integration_tests::client::{Client, by_vector, ids, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::profile_folder;
use omma_integration_tests::note;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::v1::ReplicaStatus;
use tokio::time::Instant;

const COLLECTION: &str = "restart";
const DIMENSION: usize = 512;
const BATCH: usize = 200;
const IN_FLIGHT: usize = 4;
const DRAIN: Duration = Duration::from_secs(3600);
const RESTART: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a graph of 100,000 vectors: many minutes; see the file's head"]
async fn restart_with_100_000_vectors() -> Result<()> {
    let n: usize = std::env::var("OMMA_TEST_VECTORS").ok().and_then(|v| v.parse().ok()).unwrap_or(100_000);
    let seed = seed("restart_100k");
    let cluster = Cluster::start(ClusterOptions::single("restart_100k")).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;

    let begin = Instant::now();
    ingest(&client, seed, n).await?;
    note!("{n} vectors acknowledged in {:.1?}", begin.elapsed());
    let drained = wait_checkpointed(&cluster).await?;
    note!("in the graph and checkpointed {:.1?} after the first write: {drained:?}", begin.elapsed());

    cluster.kill(0)?;
    note!("{}", restart_cost(cluster.data_folder(0)?, &[])?);
    let begin = Instant::now();
    cluster.restart(0)?;
    let probe = vector_of(seed, n / 2);
    loop {
        match client.search(COLLECTION, by_vector(&probe), 1).await {
            Ok(found) if ids(&found) == [format!("v{}", n / 2).as_str()] => break,
            Ok(found) => ensure!(found.hits.is_empty(), "a wrong first answer: {found:?}"),
            Err(_) => {}
        }
        ensure!(begin.elapsed() < RESTART, "no answer within {RESTART:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    note!("first answer {:.2?} after the start of the process", begin.elapsed());
    let lost = find_all(&client, seed, (0..n).step_by(n.div_ceil(1000))).await?;
    note!("{} of 1000 were not found at once: the graph had lost them", lost.len());
    let begin = Instant::now();
    while !find_all(&client, seed, lost.iter().copied()).await?.is_empty() {
        ensure!(begin.elapsed() < RESTART, "still not found after {RESTART:?}: some of {lost:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    note!("they were {:.1?} later: an audit of the graph had come by", begin.elapsed());
    cluster.kill(0)?;
    note!("without a checkpoint:\n{}", restart_cost(cluster.data_folder(0)?, &["--rebuild"])?);
    Ok(())
}

/// Those of the images that a search for their own vector does not find.
async fn find_all(client: &Client, seed: u64, which: impl Iterator<Item = usize>) -> Result<Vec<usize>> {
    let mut lost = Vec::new();
    for i in which {
        let found = client.search(COLLECTION, by_vector(&vector_of(seed, i)), 1).await?;
        if ids(&found) != [format!("v{i}").as_str()] {
            lost.push(i);
        }
    }
    Ok(lost)
}

fn vector_of(seed: u64, i: usize) -> Vec<f32> {
    unit_vector(&mut generator(seed, i as u64), DIMENSION)
}

async fn ingest(client: &Client, seed: u64, n: usize) -> Result<()> {
    let batches = (0..n.div_ceil(BATCH)).map(|b| async move {
        let images = (b * BATCH..n.min((b + 1) * BATCH)).map(|i| vector_image(&format!("v{i}"), vector_of(seed, i)));
        client.store(COLLECTION, images.collect(), DRAIN).await.map(drop)
    });
    futures::stream::iter(batches).buffer_unordered(IN_FLIGHT).try_collect().await
}

/// Waits until the tail is empty and the checkpoint does not move any more.
async fn wait_checkpointed(cluster: &Cluster) -> Result<ReplicaStatus> {
    let begin = Instant::now();
    let mut last: Option<(ReplicaStatus, Instant)> = None;
    loop {
        let status = cluster.status().await?;
        let groups = status.groups.iter().filter(|g| g.group_id != 0);
        let replica = groups.flat_map(|g| &g.replicas).next().cloned().unwrap_or_default();
        if replica.tail_count == 0 && replica.checkpoint_index > 0 {
            match &last {
                Some((before, since)) if before.checkpoint_index == replica.checkpoint_index => {
                    if since.elapsed() > Duration::from_secs(10) {
                        return Ok(replica);
                    }
                }
                _ => last = Some((replica.clone(), Instant::now())),
            }
        }
        ensure!(begin.elapsed() < DRAIN, "not checkpointed after {DRAIN:?}: {replica:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What the example of that name says of the data of a node that does not run.
fn restart_cost(data: &Path, flags: &[&str]) -> Result<String> {
    let example = profile_folder()?.join("examples/restart_cost");
    ensure!(example.is_file(), "{} is missing: see the head of this file", example.display());
    let run = Command::new(example).arg(data.join("state")).arg("1").args(flags).output()?;
    ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Ok(String::from_utf8_lossy(&run.stdout).into_owned())
}
