//! How long writing stands still when a group's leader is killed, and whether searches notice. Slow, so only when asked
//! for; adds its numbers to `target/leader-kills.jsonl`:
//!
//! ```text
//! cargo build --workspace --bins
//! OMMA_KILLS=25 cargo test -p omma-integration-tests --test leader_kills -- --ignored --nocapture
//! ```

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_integration_tests::client::{Client, by_vector, request_id, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::target_folder;
use omma_integration_tests::ingest::{Ingest, IngestOptions};
use omma_integration_tests::note;
use omma_integration_tests::placement::group_of;
use omma_integration_tests::replicas::metadata_of;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::internal::v1::Metadata;
use omma_proto::v1::{Consistency, PutImagesRequest, Query, SearchRequest};
use rand::Rng;
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Request;

const COLLECTION: &str = "kills";
const DIMENSION: usize = 32;
const GROUPS: u32 = 3;
const PATIENCE: Duration = Duration::from_secs(30);
/// The longest silence after which a replica stands for election, by default.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// Searches at level ANY without a pause.
#[derive(Debug, Default)]
struct Searches {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    longest_micros: AtomicU64,
}

async fn search(client: Client, seed: u64, counts: Arc<Searches>) {
    let mut rng = generator(seed, 77);
    while !counts.stop.load(Ordering::Relaxed) {
        let query =
            Query { target: Some(by_vector(&unit_vector(&mut rng, DIMENSION))), k: 10, min_score: None, filter: None };
        let request = SearchRequest {
            collection: COLLECTION.to_owned(),
            query: Some(query),
            consistency: Consistency::Any.into(),
            ..Default::default()
        };
        let begin = Instant::now();
        match client.searches().search(request).await {
            Ok(_) => counts.answered.fetch_add(1, Ordering::Relaxed),
            Err(status) => {
                note!("a search at level ANY failed: {status:?}");
                counts.failed.fetch_add(1, Ordering::Relaxed)
            }
        };
        counts.longest_micros.fetch_max(begin.elapsed().as_micros() as u64, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Begins a write to the group every 20 ms until one of them is acknowledged; returns how long after `begin` that was.
async fn first_write(client: &Client, metadata: &Metadata, group: u32, kill: u64, begin: Instant) -> Result<Duration> {
    let mut ids = (0..).map(|i| format!("probe-{kill}-{i}")).filter(|id| {
        let of = group_of(metadata, id).map(|g| g.group_id);
        of.is_ok_and(|of| of == group)
    });
    let mut writes = JoinSet::new();
    while begin.elapsed() < PATIENCE {
        let message = PutImagesRequest {
            collection: COLLECTION.to_owned(),
            images: vec![vector_image(&ids.next().context("ids never end")?, vec![1.0; DIMENSION])],
            request_id: request_id(),
        };
        let client = client.clone();
        writes.spawn(async move {
            let mut request = Request::new(message);
            request.set_timeout(PATIENCE);
            let answer = client.images().put_images(request).await?.into_inner();
            anyhow::Ok(answer.results.iter().all(|r| r.error.as_ref().is_none_or(|e| e.code == 0)))
        });
        let next = tokio::time::sleep(Duration::from_millis(20));
        tokio::pin!(next);
        loop {
            tokio::select! {
                Some(write) = writes.join_next() => if matches!(write, Ok(Ok(true))) {
                    return Ok(begin.elapsed());
                },
                () = &mut next => break,
            }
        }
    }
    anyhow::bail!("no write to group {group} within {PATIENCE:?}")
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "some seconds for each kill; see the file's head"]
async fn writes_resume_after_the_leader_is_killed() -> Result<()> {
    let kills: u64 = std::env::var("OMMA_KILLS").ok().and_then(|v| v.parse().ok()).unwrap_or(10);
    let seed = seed("leader_kills");
    let cluster = Cluster::start(ClusterOptions::named("leader_kills")).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let metadata = metadata_of(&cluster, 0).await?;
    let options = IngestOptions { collection: COLLECTION.to_owned(), dimension: DIMENSION, writers: 4, seed };
    let ingest = Ingest::begin(&client, &options);
    let counts = Arc::new(Searches::default());
    let searching = tokio::spawn(search(cluster.client()?, seed, counts.clone()));
    let mut rng = generator(seed, 1);
    let mut gaps = Vec::new();
    for kill in 0..kills {
        ingest.wait_for(50, PATIENCE).await?;
        let group = rng.random_range(1..=GROUPS);
        let status = cluster.wait_near(PATIENCE * 2).await?;
        let leader = status.groups.iter().find(|g| g.group_id == group).context("no such group")?.leader_node_id;
        let node = cluster.node_by_id(&status, leader)?;
        let begin = Instant::now();
        cluster.kill(node)?;
        gaps.push(first_write(&client, &metadata, group, kill, begin).await?);
        cluster.restart(node)?;
    }
    counts.stop.store(true, Ordering::Relaxed);
    searching.await?;
    ingest.finish().await?;
    cluster.wait_converged(PATIENCE * 2).await?;

    gaps.sort();
    let multiple = |d: Duration| d.as_secs_f64() / ELECTION_TIMEOUT.as_secs_f64();
    let (median, worst) = (percentile(&gaps, 50), percentile(&gaps, 100));
    let (answered, failed) = (counts.answered.load(Ordering::Relaxed), counts.failed.load(Ordering::Relaxed));
    note!(
        "{kills} kills of a leader: writes resumed after {median:.2?} (median; {:.2} election timeouts), {:.2?} (90 %), \
         {worst:.2?} (longest)",
        multiple(median),
        percentile(&gaps, 90),
    );
    let longest = Duration::from_micros(counts.longest_micros.load(Ordering::Relaxed));
    note!("searches at level ANY meanwhile: {answered} answered, {failed} failed, the longest took {longest:.2?}");
    let line = json!({
        "seed": seed,
        "gaps_ms": gaps.iter().map(|g| g.as_millis() as u64).collect::<Vec<_>>(),
        "any_answered": answered,
        "any_failed": failed,
        "any_longest_ms": longest.as_millis() as u64,
    });
    let path = target_folder()?.join("leader-kills.jsonl");
    writeln!(std::fs::OpenOptions::new().create(true).append(true).open(path)?, "{line}")?;
    ensure!(failed == 0, "{failed} of {} searches at level ANY failed", answered + failed);
    Ok(())
}
