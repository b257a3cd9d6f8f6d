//! Every metric that is documented shows something other than zero once what it tells of happens.

mod damage;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use omma_integration_tests::client::{Client, by_vector, picture_image, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::metric_names::{documented, whole};
use omma_integration_tests::pictures::{draw, png};
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_integration_tests::{admin, note};
use omma_proto::v1::query::Target;
use omma_proto::v1::{Consistency, Query, SearchRequest};
use omma_shard::store::Store;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Request;

const DIMENSION: usize = 16;
const PATIENCE: Duration = Duration::from_secs(90);
const GROUPS: usize = 2;
/// Less than the coordinator takes, see below.
const AT_ONCE: usize = 6;
/// So many of a graph are worth a checkpoint.
const CHECKPOINTED: usize = 2_000;
/// Beyond what the log keeps: the flags below.
const MORE_THAN_THE_LOG: usize = 200;
const FLAGS: &[&str] =
    &["--recall-sample", "1", "--snapshot-every", "60", "--keep-logs", "20", "--max-encoder-queue", "2"];

/// Looks at all admin ports over and over, and keeps the names of metrics that were not zero.
struct Watcher {
    seen: Arc<Mutex<BTreeSet<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    fn over(cluster: &Cluster) -> Self {
        let ports: Vec<String> = cluster.admin_ports().into_iter().map(str::to_owned).collect();
        let seen = Arc::new(Mutex::new(BTreeSet::new()));
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                loop {
                    for samples in join_all(ports.iter().map(|port| admin::metrics(port))).await {
                        // Processes are killed and hang meanwhile.
                        let moved = samples.into_iter().flatten().filter(|sample| sample.value > 0.0);
                        let names = moved.map(|sample| whole(&sample.name).to_owned());
                        seen.lock().unwrap_or_else(PoisonError::into_inner).extend(names);
                    }
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
            }
        });
        Self { seen, task }
    }

    /// Those that were always zero, or not there.
    fn missing<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        names.into_iter().filter(|name| !seen.contains(*name)).collect()
    }

    /// Does it over and over until all of these have been seen.
    async fn until_seen(&self, what: &str, names: &[&str], again: impl AsyncFn() -> Result<()>) -> Result<()> {
        let begin = Instant::now();
        loop {
            again().await?;
            let missing = self.missing(names.iter().copied());
            if missing.is_empty() {
                note!("{what}: {} metrics after {:.1?}", names.len(), begin.elapsed());
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "{what}: still zero: {missing:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Puts `count` vectors, `batch` in each call, some calls at once.
async fn put(client: &Client, prefix: &str, count: usize, batch: usize, rng: &mut StdRng) -> Result<()> {
    let images: Vec<_> =
        (0..count).map(|i| vector_image(&format!("{prefix}{i}"), unit_vector(rng, DIMENSION))).collect();
    let calls = images.chunks(batch).map(|images| client.store("vectors", images.to_vec(), PATIENCE));
    stream::iter(calls).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
    Ok(())
}

/// Writes, searches, deletions, and more at once than there are places for.
async fn use_it(client: &Client, watcher: &Watcher, rng: &mut StdRng) -> Result<()> {
    client.create("vectors", Some(DIMENSION as u32)).await?;
    client.create("pictures", None).await?;
    put(client, "v", CHECKPOINTED * GROUPS * 11 / 10, 200, rng).await?;
    let checkpoint = ["omma_checkpoint_seconds", "omma_checkpoint_age_seconds", "omma_checkpoint_unsaved_images"];
    watcher.until_seen("enough for checkpoints", &checkpoint, async || Ok(())).await?;

    let (picture, vector) = (png(&draw(3, 200, 200))?, unit_vector(rng, DIMENSION));
    client.store("pictures", vec![picture_image("p", picture.clone())], PATIENCE).await?;
    client.search("pictures", Target::Picture(picture.clone()), 5).await?;
    ensure!(client.search("nowhere", by_vector(&vector), 5).await.is_err(), "there is no such collection");
    let full =
        ["omma_shard_refused_total", "omma_coordinator_refused_total", "omma_queue_length", "omma_rpc_in_flight"];
    watcher.until_seen("too much at once", &full, async || at_once(client, &picture, &vector).await).await?;

    let deleted: Vec<String> = (0..1_000).map(|i| format!("v{i}")).collect();
    let deleted: Vec<&str> = deleted.iter().map(String::as_str).collect();
    client.delete("vectors", &deleted[..100]).await?;
    watcher.until_seen("some deleted", &["omma_index_tombstones"], async || Ok(())).await?;
    client.delete("vectors", &deleted[100..]).await?;
    put(client, "again", 1_000, 200, rng).await?;
    let again: Vec<String> = (0..1_000).map(|i| format!("again{i}")).collect();
    client.delete("vectors", &again.iter().map(String::as_str).collect::<Vec<_>>()).await?;
    watcher.until_seen("many deleted", &["omma_index_rebuilds_total"], async || Ok(())).await
}

async fn at_once(client: &Client, picture: &Bytes, vector: &[f32]) -> Result<()> {
    let pictures = (0..16).map(|_| client.search("pictures", Target::Picture(picture.clone()), 5));
    let vectors = (0..16).map(|_| client.search("vectors", by_vector(vector), 5));
    let _ = tokio::join!(join_all(pictures), join_all(vectors));
    Ok(())
}

/// One search of the state, however it ends.
async fn search(client: &Client, consistency: Consistency, vector: &[f32]) {
    let mut request = Request::new(SearchRequest {
        collection: "vectors".to_owned(),
        query: Some(Query { target: Some(by_vector(vector)), k: 5, ..Query::default() }),
        consistency: consistency.into(),
        allow_partial: true,
        ..SearchRequest::default()
    });
    request.set_timeout(Duration::from_millis(700));
    let _ = client.searches().search(request).await;
}

/// The node that leads shard group 1; leaderships move back to where they belong now and then.
async fn leader(cluster: &Cluster) -> Result<usize> {
    cluster
        .wait_until("led", PATIENCE, async |cluster: &Cluster, status| {
            let group = status.groups.iter().find(|g| g.group_id == 1).context("no group 1")?;
            cluster.node_by_id(&status, group.leader_node_id)
        })
        .await
}

/// A leader hangs, is killed, and returns to find that the log has gone on without it. Returns which.
async fn lose_a_leader(cluster: &Cluster, client: &Client, watcher: &Watcher, rng: &mut StdRng) -> Result<usize> {
    let (victim, vector) = (leader(cluster).await?, unit_vector(rng, DIMENSION));
    cluster.pause(victim)?;
    let slow = ["omma_hedged_calls_total", "omma_partial_searches_total"];
    watcher
        .until_seen("a leader that hangs", &slow, async || {
            search(client, Consistency::Linearizable, &vector).await;
            search(client, Consistency::Any, &vector).await;
            Ok(())
        })
        .await?;
    cluster.kill(victim)?;
    put(client, "more", MORE_THAN_THE_LOG, 1, rng).await?;
    let away = ["omma_node_call_failures_total", "omma_raft_follower_lag_entries"];
    watcher.until_seen("a node that is away", &away, async || Ok(())).await?;
    cluster.restart(victim)?;
    let back = ["omma_snapshots_installed_total", "omma_replayed_images_total"];
    watcher.until_seen("a node that returns", &back, async || Ok(())).await?;
    cluster.wait_converged(PATIENCE).await?;
    Ok(victim)
}

fn lead_astray(data: &Path) -> Result<()> {
    damage::lead_astray(&Store::open(&data.join("state"), 16 << 20, Duration::from_secs(60))?, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_shows_something_once_it_happens() -> Result<()> {
    let options = ClusterOptions { groups: GROUPS, ..ClusterOptions::named("every_metric") };
    let options = options.secured().shard_flags(FLAGS).coordinator_flags(&["--max-requests", "15"]);
    let cluster = Cluster::start(options).await?;
    let (client, mut rng) = (cluster.client()?, generator(seed("every_metric"), 0));
    let watcher = Watcher::over(&cluster);
    use_it(&client, &watcher, &mut rng).await?;
    cluster.wait_converged(PATIENCE).await?;
    let victim = lose_a_leader(&cluster, &client, &watcher, &mut rng).await?;

    // Not the victim either: a snapshot's contents are in another table.
    let leader = leader(&cluster).await?;
    let follower = (0..cluster.nodes()).find(|&n| n != leader && n != victim).context("no third node")?;
    cluster.shard_process(follower)?.terminate(PATIENCE)?;
    lead_astray(cluster.data_folder(follower)?)?;
    cluster.restart(follower)?;
    let differs = ["omma_digest_mismatches_total", "omma_replica_differs", "omma_replicas_rebuilt_total"];
    watcher.until_seen("a replica that went astray", &differs, async || Ok(())).await?;
    cluster.wait_converged(PATIENCE).await?;

    std::fs::write(cluster.secured()?.file("keys"), "no keys")?;
    watcher.until_seen("keys that are none", &["omma_files_stale_since_seconds"], async || Ok(())).await?;

    let documented = documented()?;
    let missing = watcher.missing(documented.iter().map(String::as_str));
    ensure!(documented.len() > 50 && missing.is_empty(), "of {} metrics always zero: {missing:?}", documented.len());
    note!("all {} metrics were seen other than zero", documented.len());
    Ok(())
}
