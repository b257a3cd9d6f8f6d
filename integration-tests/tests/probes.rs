//! What Kubernetes would have seen of each process, and done to it, while things go wrong: prints the table of
//! `docs/observability.md`. Slow, so only when asked for; the full disk takes root:
//!
//! ```text
//! cargo build --release --workspace --bins
//! cargo test --release -p omma-integration-tests --test probes -- --ignored --nocapture
//! ```
//!
//! `OMMA_TEST_VECTORS` sets another number than 100,000.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{StreamExt, TryStreamExt};
use omma_integration_tests::client::{Client, by_vector, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::disks::{Disk, can_mount};
use omma_integration_tests::kubelet::{Kubelet, Seen};
use omma_integration_tests::network::{Link, Party};
use omma_integration_tests::note;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::v1::{Consistency, Query, SearchRequest};
use tokio::time::{Instant, sleep};
use tonic::Request;

const COLLECTION: &str = "probes";
const DIMENSION: usize = 64;
/// Longer than Kubernetes waits before it kills a process that does not answer.
const LONG: Duration = Duration::from_secs(80);
const SETTLED: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(120);
const NODES: usize = 3;
const COORDINATORS: usize = 2;
const SEARCH_DEADLINE: Duration = Duration::from_secs(2);
/// Room on a node's disk before it is full, in bytes.
const DISK: u64 = 4 << 30;

/// Searches at level ANY, ten a second, each through the next coordinator that is ready: as through their service.
#[derive(Debug, Default)]
struct Searches {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Searches {
    fn begin(coordinators: Vec<(Arc<Kubelet>, Client)>, seed: u64) -> Arc<Self> {
        let counts = Arc::new(Self::default());
        let searches = counts.clone();
        tokio::spawn(async move {
            let mut rng = generator(seed, 5);
            for turn in 0.. {
                if searches.stop.load(Ordering::Relaxed) {
                    break;
                }
                let ready: Vec<_> = coordinators.iter().filter(|(kubelet, _)| kubelet.ready()).collect();
                let found = match ready.get(turn % ready.len().max(1)) {
                    Some((_, client)) => search(client, unit_vector(&mut rng, DIMENSION)).await,
                    None => false,
                };
                let count = if found { &searches.answered } else { &searches.failed };
                count.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(100)).await;
            }
        });
        counts
    }
}

async fn search(client: &Client, vector: Vec<f32>) -> bool {
    let mut request = Request::new(SearchRequest {
        collection: COLLECTION.to_owned(),
        query: Some(Query { target: Some(by_vector(&vector)), k: 10, min_score: None, filter: None }),
        consistency: Consistency::Any.into(),
        ..Default::default()
    });
    request.set_timeout(SEARCH_DEADLINE);
    client.searches().search(request).await.is_ok()
}

/// The cluster, and somebody who asks each of its processes.
struct Watched {
    cluster: Cluster,
    /// Shard nodes, then coordinators.
    kubelets: Vec<Arc<Kubelet>>,
    seed: u64,
}

/// Changes of one process, with the time since the watch began.
type Changes = Vec<(Duration, Seen)>;

impl Watched {
    /// Watches all processes anew, as if they had just been started.
    fn watch(&mut self) {
        let watch = |port| Arc::new(Kubelet::watch(port));
        self.kubelets = self.cluster.admin_ports().into_iter().map(watch).collect();
    }

    /// Lets `harm` happen and prints a row. Returns what was seen of each process from then on.
    async fn row(
        &mut self,
        what: &str,
        long: Duration,
        harm: impl AsyncFnOnce(&Cluster) -> Result<()>,
    ) -> Result<Vec<Vec<Seen>>> {
        self.watch();
        sleep(SETTLED).await;
        let before: Vec<usize> = self.kubelets.iter().map(|k| k.seen().len()).collect();
        let clients = (0..COORDINATORS).map(|i| self.cluster.client_of(i));
        let coordinators = self.kubelets[NODES..].iter().cloned().zip(clients.collect::<Result<Vec<_>>>()?).collect();
        let searches = Searches::begin(coordinators, self.seed);
        harm(&self.cluster).await?;
        sleep(long).await;
        searches.stop.store(true, Ordering::Relaxed);
        let seen: Vec<Changes> = self.kubelets.iter().zip(&before).map(|(k, n)| k.seen().split_off(*n)).collect();
        let (answered, failed) = (searches.answered.load(Ordering::Relaxed), searches.failed.load(Ordering::Relaxed));
        ensure!(answered > 0, "{what}: no search was answered");
        note!("| {what} | {} | {failed} of {} |", told(&seen, SETTLED), answered + failed);
        Ok(seen.into_iter().map(|s| s.into_iter().map(|(_, what)| what).collect()).collect())
    }

    async fn well_again(&self) -> Result<()> {
        self.cluster.wait_converged(PATIENCE).await.map(drop)
    }
}

/// Who was seen to change, and when after `begin`.
fn told(seen: &[Changes], begin: Duration) -> String {
    let one = |(at, what): &(Duration, Seen)| {
        let at = at.saturating_sub(begin).as_secs();
        match what {
            Seen::Started => format!("started after {at} s"),
            Seen::Ready => format!("ready after {at} s"),
            Seen::NotReady(why) => format!("not ready after {at} s ({why})"),
            Seen::Killed(why) => format!("killed after {at} s ({why})"),
        }
    };
    let names = (0..NODES).map(|i| format!("node {i}")).chain((0..COORDINATORS).map(|i| format!("coordinator {i}")));
    let changed = names.zip(seen).filter(|(_, changes)| !changes.is_empty());
    let lines: Vec<String> = changed
        .map(|(name, changes)| format!("{name}: {}", changes.iter().map(one).collect::<Vec<_>>().join(", ")))
        .collect();
    if lines.is_empty() { "no change".to_owned() } else { lines.join("; ") }
}

async fn fill(client: &Client, seed: u64, n: usize) -> Result<()> {
    const BATCH: usize = 250;
    let batches = (0..n).step_by(BATCH).map(|first| async move {
        let mut rng = generator(seed, 1_000 + first as u64);
        let images = (first..(first + BATCH).min(n))
            .map(|i| vector_image(&format!("v{i}"), unit_vector(&mut rng, DIMENSION)))
            .collect();
        client.store(COLLECTION, images, PATIENCE).await
    });
    futures::stream::iter(batches).buffer_unordered(4).try_for_each(|_| async { Ok(()) }).await
}

/// Nothing happened to any process, but to `except`.
fn unharmed(what: &str, seen: &[Vec<Seen>], except: &[usize]) -> Result<()> {
    for (process, seen) in seen.iter().enumerate().filter(|(process, _)| !except.contains(process)) {
        ensure!(seen.is_empty(), "{what}: process {process} was taken for ill: {seen:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "ten minutes; see the file's head"]
async fn no_healthy_process_is_killed_and_no_useless_one_gets_traffic() -> Result<()> {
    let n = std::env::var("OMMA_TEST_VECTORS").ok().and_then(|v| v.parse().ok()).unwrap_or(100_000);
    let seed = seed("probes");
    let options = ClusterOptions { proxied: true, coordinators: COORDINATORS, ..ClusterOptions::named("probes") };
    let cluster = Cluster::start(options).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    fill(&client, seed, n).await?;
    cluster.wait_converged(PATIENCE).await?;
    let mut watched = Watched { cluster, kubelets: Vec::new(), seed };
    note!("| what happens | what Kubernetes would have seen | failed searches at `ANY` |");
    note!("|---|---|---|");

    start(&mut watched, n).await?;
    leader_loss(&mut watched).await?;
    partition(&mut watched).await?;
    coordinator_alone(&mut watched).await?;
    hang(&mut watched).await?;
    if can_mount() {
        full_disk(&mut watched).await?;
    }
    Ok(())
}

/// kill -9 of all nodes, which start with all their data: none is ready before it is started.
async fn start(watched: &mut Watched, n: usize) -> Result<()> {
    watched.cluster.kill_all()?;
    let begun = Instant::now();
    for node in 0..NODES {
        watched.cluster.restart(node)?;
    }
    watched.watch();
    watched.well_again().await?;
    let took = begun.elapsed();
    sleep(SETTLED).await;
    let seen: Vec<Changes> = watched.kubelets.iter().map(|kubelet| kubelet.seen()).collect();
    note!("| all nodes start, with {n} vectors (converged after {took:.1?}) | {} | |", told(&seen, Duration::ZERO));
    for (process, seen) in seen.iter().enumerate() {
        let in_order = matches!(&seen[..], [(_, Seen::Started), (_, Seen::Ready)]);
        ensure!(in_order, "process {process} did not just start and get ready: {seen:?}");
    }
    Ok(())
}

async fn leader_loss(watched: &mut Watched) -> Result<()> {
    let status = watched.cluster.wait_near(PATIENCE).await?;
    let leader = status.groups.iter().find(|g| g.group_id == 1).context("no group 1")?.leader_node_id;
    let node = watched.cluster.node_by_id(&status, leader)?;
    let what = format!("node {node}, which leads, dies");
    let seen = watched.row(&what, LONG / 2, async |cluster| cluster.kill(node)).await?;
    unharmed(&what, &seen, &[node])?;
    ensure!(matches!(&*seen[node], [Seen::NotReady(_)]), "a dead process gets traffic: {:?}", seen[node]);
    watched.cluster.restart(node)?;
    watched.well_again().await
}

/// Cuts all links between `one` and `others`.
fn cut_off(cluster: &Cluster, one: Party, others: &[Party]) -> Result<()> {
    for &other in others {
        cluster.network()?.set(other, one, Link::Cut);
        cluster.network()?.set(one, other, Link::Cut);
    }
    Ok(())
}

/// It does what it can for whoever reaches it. Coordinators do not wait for Kubernetes to tell them that they do not.
async fn partition(watched: &mut Watched) -> Result<()> {
    let what = "node 1 is cut off from all others";
    let others = [Party::Shard(0), Party::Shard(2), Party::Coordinator(0), Party::Coordinator(1)];
    let seen = watched.row(what, LONG, async |cluster| cut_off(cluster, Party::Shard(1), &others)).await?;
    unharmed(what, &seen, &[])?;
    watched.cluster.network()?.heal();
    watched.well_again().await
}

/// A coordinator that reaches no shard node is of no use: it gets no traffic, and lives on.
async fn coordinator_alone(watched: &mut Watched) -> Result<()> {
    let what = "coordinator 1 is cut off from all nodes, for 80 s";
    let nodes = [Party::Shard(0), Party::Shard(1), Party::Shard(2)];
    let cut = async |cluster: &Cluster| {
        cut_off(cluster, Party::Coordinator(1), &nodes)?;
        sleep(LONG).await;
        cluster.network()?.heal();
        Ok(())
    };
    let seen = watched.row(what, SETTLED, cut).await?;
    unharmed(what, &seen, &[NODES + 1])?;
    let alone = &seen[NODES + 1];
    ensure!(matches!(&**alone, [Seen::NotReady(_), Seen::Ready]), "a coordinator that reaches nobody: {alone:?}");
    watched.well_again().await
}

/// A process that hangs is of no use: it gets no traffic, and is killed.
async fn hang(watched: &mut Watched) -> Result<()> {
    let what = "node 2 hangs (SIGSTOP)";
    let seen = watched.row(what, LONG, async |cluster| cluster.pause(2)).await?;
    unharmed(what, &seen, &[2])?;
    ensure!(matches!(&*seen[2], [Seen::NotReady(_), Seen::Killed(_)]), "a process that hangs lived on: {:?}", seen[2]);
    watched.cluster.resume(2)?;
    watched.well_again().await
}

async fn full_disk(watched: &mut Watched) -> Result<()> {
    watched.cluster.kill(2)?;
    let disk = Disk::in_memory(watched.cluster.data_folder(2)?, DISK)?;
    watched.cluster.restart(2)?;
    watched.well_again().await?;
    let client = watched.cluster.client()?;
    let seed = watched.seed;
    let what = "node 2's disk is full, while others write";
    let fill_up = async |_: &Cluster| {
        disk.resize(disk.used()? + (1 << 20))?;
        let end = Instant::now() + LONG;
        let mut rng = generator(seed, 9);
        for i in 0.. {
            if Instant::now() > end {
                break;
            }
            let image = vector_image(&format!("full{i}"), unit_vector(&mut rng, DIMENSION));
            // Refused, while node 2 leads the image's group.
            let _ = client.put(COLLECTION, vec![image]).await;
        }
        Ok(())
    };
    let seen = watched.row(what, SETTLED, fill_up).await?;
    unharmed(what, &seen, &[])?;
    disk.resize(DISK)?;
    watched.well_again().await?;
    // Nothing may use the disk when it goes.
    watched.cluster.kill_all()
}
