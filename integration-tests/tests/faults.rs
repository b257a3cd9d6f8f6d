//! Nodes die, stop and come back while images are written: nothing acknowledged is lost, on any replica.
//!
//! Every test writes with retries under one request id until each write is acknowledged, so that the images in the
//! cluster at the end are exactly the acknowledged ones: none missing, none twice.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_integration_tests::client::{Client, by_vector, ids, request_id, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::convergence::image_count;
use omma_integration_tests::ingest::{Acknowledged, Ingest, IngestOptions, longest_gap};
use omma_integration_tests::note;
use omma_integration_tests::placement::group_of;
use omma_integration_tests::replicas::{metadata_of, missing};
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::internal::v1::Metadata;
use omma_proto::v1::{GetClusterStatusResponse, GroupStatus, PutImagesRequest};
use rand::seq::SliceRandom;
use tokio::time::Instant;
use tonic::Request;

const COLLECTION: &str = "faults";
const DIMENSION: usize = 32;
const WRITERS: usize = 8;
/// For replicas to be equal again after the last fault.
const CATCH_UP: Duration = Duration::from_secs(60);
/// For writes to go on with one node gone: far above the two election timeouts that are promised, as the machine may
/// be busy; what it took is printed.
const RESUME: Duration = Duration::from_secs(30);

async fn start(name: &str, flags: &[&str]) -> Result<(Cluster, Client, IngestOptions)> {
    let seed = seed(name);
    let cluster = Cluster::start(ClusterOptions::named(name).shard_flags(flags)).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let options = IngestOptions { collection: COLLECTION.to_owned(), dimension: DIMENSION, writers: WRITERS, seed };
    Ok((cluster, client, options))
}

/// After the faults: replicas equal, every acknowledged image on each of them, none too many, and searches find them.
async fn nothing_is_lost(cluster: &Cluster, acknowledged: &[Acknowledged]) -> Result<()> {
    let begin = Instant::now();
    let status = cluster.wait_converged(CATCH_UP).await?;
    note!("replicas equal {:.1?} after the last restart", begin.elapsed());
    let all: Vec<_> = acknowledged.iter().map(|a| a.id.clone()).collect();
    let lost = missing(cluster, COLLECTION, &all).await?;
    ensure!(lost.is_empty(), "{} acknowledged images are missing: {:?}", lost.len(), &lost[..lost.len().min(10)]);
    let distinct = all.iter().collect::<BTreeSet<_>>().len() as u64;
    ensure!(image_count(&status) == distinct, "{} images for {distinct} acknowledged", image_count(&status));
    let client = cluster.client()?;
    for a in acknowledged.iter().step_by(acknowledged.len().div_ceil(200).max(1)) {
        let found = client.search(COLLECTION, by_vector(&a.vector), 1).await?;
        ensure!(ids(&found) == [a.id.as_str()], "{} is not found: {found:?}", a.id);
    }
    note!("{distinct} acknowledged images, on every replica");
    Ok(())
}

/// A shard group that node `node` leads, if it leads one.
fn led_by<'s>(cluster: &Cluster, status: &'s GetClusterStatusResponse, node: usize) -> Option<&'s GroupStatus> {
    let mut shard_groups = status.groups.iter().filter(|g| g.group_id != 0);
    shard_groups.find(|g| cluster.node_by_id(status, g.leader_node_id).ok() == Some(node))
}

/// Writes one image after the other to `group_id` until one is acknowledged; returns how long that took.
async fn first_write_to(client: &Client, metadata: &Metadata, group_id: u32) -> Result<Duration> {
    let begin = Instant::now();
    let in_group = |i: &u32| group_of(metadata, &format!("probe-{i}")).is_ok_and(|g| g.group_id == group_id);
    let i = (0..10_000).find(in_group).context("no id in the group")?;
    let message = PutImagesRequest {
        collection: COLLECTION.to_owned(),
        images: vec![vector_image(&format!("probe-{i}"), vec![1.0; DIMENSION])],
        request_id: request_id(),
    };
    loop {
        let mut request = Request::new(message.clone());
        request.set_timeout(Duration::from_millis(500));
        let outcome = client.images().put_images(request).await;
        if outcome.is_ok_and(|a| a.into_inner().results.iter().all(|r| r.error.as_ref().is_none_or(|e| e.code == 0))) {
            // Gone again, so that counts stay those of the ingest.
            client.delete(COLLECTION, &[&format!("probe-{i}")]).await?;
            return Ok(begin.elapsed());
        }
        ensure!(begin.elapsed() < RESUME, "no write to group {group_id} within {RESUME:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_node_in_turn_is_killed_during_ingest() -> Result<()> {
    let (cluster, client, options) = start("kill_each_node", &[]).await?;
    let metadata = metadata_of(&cluster, 0).await?;
    let mut order: Vec<usize> = (0..cluster.nodes()).collect();
    order.shuffle(&mut generator(options.seed, 1000));
    let ingest = Ingest::begin(&client, &options);
    for node in order {
        ingest.wait_for(200, RESUME).await?;
        let status = cluster.status().await?;
        let group = led_by(&cluster, &status, node).map(|g| g.group_id);
        cluster.kill(node)?;
        if let Some(group) = group {
            let took = first_write_to(&client, &metadata, group).await?;
            note!("shard node {node} led group {group}: first write {took:.2?} after kill -9");
        }
        // All of them go on, not only the groups that were led elsewhere.
        ingest.wait_for(200, RESUME).await?;
        cluster.restart(node)?;
        cluster.wait_near(CATCH_UP).await?;
    }
    let acknowledged = ingest.finish().await?;
    note!("longest time without any acknowledgement: {:.2?}", longest_gap(&acknowledged));
    nothing_is_lost(&cluster, &acknowledged).await
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_killed_at_once_during_ingest() -> Result<()> {
    let (cluster, client, options) = start("kill_all_nodes", &[]).await?;
    let ingest = Ingest::begin(&client, &options);
    for _ in 0..2 {
        ingest.wait_for(300, RESUME).await?;
        cluster.kill_all()?;
        for node in 0..cluster.nodes() {
            cluster.restart(node)?;
        }
        let begin = Instant::now();
        ingest.wait_for(1, CATCH_UP).await?;
        note!("first write {:.2?} after the restart of all", begin.elapsed());
    }
    let acknowledged = ingest.finish().await?;
    nothing_is_lost(&cluster, &acknowledged).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_missed_more_than_the_log_keeps_gets_a_snapshot() -> Result<()> {
    let flags = ["--snapshot-every", "100", "--keep-logs", "20"];
    let (cluster, client, options) = start("snapshot", &flags).await?;
    let ingest = Ingest::begin(&client, &options);
    ingest.wait_for(100, RESUME).await?;
    let away = 2;
    cluster.kill(away)?;
    // Some 600 entries for each group: several times what the log keeps.
    ingest.wait_for(1800, 4 * RESUME).await?;
    cluster.restart(away)?;
    ingest.wait_for(100, RESUME).await?;
    let acknowledged = ingest.finish().await?;
    nothing_is_lost(&cluster, &acknowledged).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_is_replaced_and_serves_nothing_stale() -> Result<()> {
    let (cluster, client, options) = start("pause_leader", &[]).await?;
    let metadata = metadata_of(&cluster, 0).await?;
    let ingest = Ingest::begin(&client, &options);
    ingest.wait_for(100, RESUME).await?;
    let status = cluster.status().await?;
    let led = (0..cluster.nodes()).find_map(|n| Some((n, led_by(&cluster, &status, n)?.group_id)));
    let (leader, group) = led.context("no node leads a shard group")?;
    cluster.pause(leader)?;
    let took = first_write_to(&client, &metadata, group).await?;
    note!("group {group}: first write {took:.2?} after its leader was stopped");
    ingest.wait_for(200, RESUME).await?;

    // Written while the old leader sleeps: it must not answer from before that.
    let ids: Vec<_> = (0..30).map(|i| format!("fresh-{i}")).collect();
    let mut rng = generator(options.seed, 2000);
    let mut fresh = Vec::new();
    for id in &ids {
        let vector = unit_vector(&mut rng, DIMENSION);
        client.store(COLLECTION, vec![vector_image(id, vector.clone())], RESUME).await?;
        fresh.push(Acknowledged { id: id.clone(), vector, at: Instant::now() });
    }
    cluster.resume(leader)?;
    for _ in 0..5 {
        for a in &fresh {
            let stored = client.get(COLLECTION, &a.id).await?;
            ensure!(stored.is_some(), "{} is acknowledged, but a linearizable read does not see it", a.id);
        }
    }
    let mut acknowledged = ingest.finish().await?;
    acknowledged.extend(fresh);
    nothing_is_lost(&cluster, &acknowledged).await
}

#[tokio::test(flavor = "multi_thread")]
async fn searches_go_on_while_a_node_is_down() -> Result<()> {
    let (cluster, client, options) = start("search_while_down", &[]).await?;
    let ingest = Ingest::begin(&client, &options);
    ingest.wait_for(300, RESUME).await?;
    let acknowledged = ingest.finish().await?;
    for node in 0..cluster.nodes() {
        cluster.kill(node)?;
        let (begin, mut failures, mut answered) = (Instant::now(), 0, 0);
        let mut longest = Duration::ZERO;
        let mut last = Instant::now();
        while begin.elapsed() < Duration::from_secs(5) {
            let a = &acknowledged[(answered * 7 + node) % acknowledged.len()];
            match client.search(COLLECTION, by_vector(&a.vector), 1).await {
                Ok(found) => {
                    ensure!(ids(&found) == [a.id.as_str()], "{} is lost: {found:?}", a.id);
                    (longest, last) = (longest.max(last.elapsed()), Instant::now());
                    answered += 1;
                }
                Err(_) => failures += 1,
            }
        }
        note!("shard node {node} down: {answered} searches, {failures} failed, longest gap {longest:.2?}");
        ensure!(answered > 0 && last.elapsed() < Duration::from_secs(1), "searches do not go on");
        cluster.restart(node)?;
        cluster.wait_converged(CATCH_UP).await?;
    }
    nothing_is_lost(&cluster, &acknowledged).await
}
