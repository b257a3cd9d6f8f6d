//! How long writes stand still when a leader dies, and how often a leader is given up for no reason. Not part of the
//! default run: `cargo test -p omma-integration-tests --test failover -- --ignored --nocapture`.
//!
//! `OMMA_KILLS` leaders are killed (20 if not set); `OMMA_ELECTION_TIMEOUT` is passed on to the nodes.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_integration_tests::client::{Client, request_id, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::ingest::{Ingest, IngestOptions};
use omma_integration_tests::note;
use omma_integration_tests::placement::group_of;
use omma_integration_tests::replicas::metadata_of;
use omma_integration_tests::vectors::seed;
use omma_proto::v1::{GetClusterStatusResponse, PutImagesRequest};
use tokio::time::Instant;
use tonic::Request;

const COLLECTION: &str = "failover";
const PATIENCE: Duration = Duration::from_secs(60);
/// Under load, with nobody harmed.
const WATCH: Duration = Duration::from_secs(60);

/// Until one write of `id` is acknowledged, each try cut off after a fifth of a second.
async fn first_write(client: &Client, id: &str) -> Result<Duration> {
    let begin = Instant::now();
    let message = PutImagesRequest {
        collection: COLLECTION.to_owned(),
        images: vec![vector_image(id, vec![1.0; 8])],
        request_id: request_id(),
    };
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(Duration::from_millis(200));
        let answer = client.images().put_images(request).await.map(|a| a.into_inner().results);
        if answer.is_ok_and(|r| r.iter().all(|r| r.error.as_ref().is_none_or(|e| e.code == 0))) {
            return Ok(begin.elapsed());
        }
        ensure!(begin.elapsed() < PATIENCE, "no write within {PATIENCE:?}");
    }
}

fn terms(status: &GetClusterStatusResponse) -> u64 {
    status.groups.iter().map(|g| g.term).sum()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; measures"]
async fn writes_resume_soon_after_a_leader_dies() -> Result<()> {
    let kills = std::env::var("OMMA_KILLS").ok().map_or(Ok(20), |v| v.parse::<usize>())?;
    let cluster = Cluster::start(ClusterOptions::named("failover")).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(8)).await?;
    let writers = IngestOptions { collection: COLLECTION.to_owned(), dimension: 8, writers: 8, seed: seed("failover") };
    let ingest = Ingest::begin(&client, &writers);
    let (before, count) = (terms(&cluster.status().await?), ingest.count());
    tokio::time::sleep(WATCH).await;
    let (after, done) = (terms(&cluster.status().await?), ingest.count() - count);
    note!("{} elections of 4 groups in {WATCH:.0?} of load ({done} writes), with nobody harmed", after - before);
    ingest.finish().await?;

    let metadata = metadata_of(&cluster, 0).await?;
    let in_group = |i: &u32| group_of(&metadata, &format!("probe-{i}")).is_ok_and(|g| g.group_id == 1);
    let id = format!("probe-{}", (0..10_000).find(in_group).context("no id in group 1")?);
    let mut gaps = Vec::new();
    for _ in 0..kills {
        first_write(&client, &id).await?;
        let status = cluster.status().await?;
        let group = status.groups.iter().find(|g| g.group_id == 1).context("no group 1")?;
        let leader = cluster.node_by_id(&status, group.leader_node_id)?;
        cluster.kill(leader)?;
        gaps.push(first_write(&client, &id).await?);
        cluster.restart(leader)?;
        cluster.wait_near(PATIENCE).await?;
    }
    gaps.sort_unstable();
    let at = |part: usize| gaps[(gaps.len() * part / 100).min(gaps.len() - 1)];
    note!("{kills} kills: writes resumed after {:.2?} (median), {:.2?} (90 %), {:.2?} (most)", at(50), at(90), at(100));
    Ok(())
}
