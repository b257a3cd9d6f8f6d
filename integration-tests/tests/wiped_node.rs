//! A node whose disk is wiped returns as another node: that does no harm.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, ensure};
use omma_integration_tests::client::{by_vector, ids};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::ingest::{Ingest, IngestOptions};
use omma_integration_tests::note;
use omma_integration_tests::vectors::seed;
use tokio::time::Instant;

const COLLECTION: &str = "wiped";
const DIMENSION: usize = 32;
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_returns_as_another_and_nothing_is_lost() -> Result<()> {
    let seed = seed("wiped_node");
    let cluster = Cluster::start(ClusterOptions::named("wiped_node")).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let before: BTreeSet<u64> = cluster.status().await?.nodes.iter().map(|n| n.node_id).collect();
    let options = IngestOptions { collection: COLLECTION.to_owned(), dimension: DIMENSION, writers: 4, seed };
    let ingest = Ingest::begin(&client, &options);
    ingest.wait_for(100, PATIENCE).await?;
    let victim = usize::try_from(seed % 3)?;
    cluster.kill(victim)?;
    cluster.wipe(victim)?;
    cluster.restart(victim)?;
    let begin = Instant::now();
    let newcomer = loop {
        let now: BTreeSet<u64> = cluster.status().await?.nodes.iter().map(|n| n.node_id).collect();
        if let Some(newcomer) = now.difference(&before).next() {
            break *newcomer;
        }
        ensure!(begin.elapsed() < PATIENCE, "the wiped node did not join again: {now:x?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    note!("the wiped node joined as {newcomer:x} after {:.1?}", begin.elapsed());
    ingest.wait_for(200, PATIENCE).await?;
    let acknowledged = ingest.finish().await?;
    for a in &acknowledged {
        ensure!(client.get(COLLECTION, &a.id).await?.is_some(), "{} is acknowledged and gone", a.id);
    }
    for a in acknowledged.iter().step_by(acknowledged.len().div_ceil(100)) {
        let found = client.search(COLLECTION, by_vector(&a.vector), 1).await?;
        ensure!(ids(&found) == [a.id.as_str()], "{} is not found: {found:?}", a.id);
    }
    replicas_that_answer_are_equal(&cluster).await?;
    note!("{} acknowledged images, all there", acknowledged.len());
    Ok(())
}

/// At least two of each group's replicas answer, and those are equal.
async fn replicas_that_answer_are_equal(cluster: &Cluster) -> Result<()> {
    let begin = Instant::now();
    loop {
        let status = cluster.status().await?;
        let unequal = status.groups.iter().filter(|g| g.group_id != 0).find(|group| {
            let mut answering = group.replicas.iter().filter(|r| r.reachable && !r.digest.is_empty());
            let states: BTreeSet<_> = answering.clone().map(|r| (r.applied_index, &r.digest)).collect();
            answering.nth(1).is_none() || states.len() != 1
        });
        let Some(unequal) = unequal else { return Ok(()) };
        ensure!(begin.elapsed() < PATIENCE, "after {PATIENCE:?}: {unequal:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
