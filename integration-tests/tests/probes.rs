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

const COLLECTION: &str = "probes";
const DIMENSION: usize = 64;
/// Longer than Kubernetes waits before it kills a process that does not answer.
const LONG: Duration = Duration::from_secs(80);
const SETTLED: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(120);
const NODES: usize = 3;

/// Searches at level ANY, ten a second.
#[derive(Debug, Default)]
struct Searches {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
}

impl Searches {
    fn begin(client: Client, seed: u64) -> Arc<Self> {
        let counts = Arc::new(Self::default());
        let searches = counts.clone();
        tokio::spawn(async move {
            let mut rng = generator(seed, 5);
            while !searches.stop.load(Ordering::Relaxed) {
                let target = Some(by_vector(&unit_vector(&mut rng, DIMENSION)));
                let request = SearchRequest {
                    collection: COLLECTION.to_owned(),
                    query: Some(Query { target, k: 10, min_score: None, filter: None }),
                    consistency: Consistency::Any.into(),
                    ..Default::default()
                };
                let answer = client.searches().search(request).await;
                let count = if answer.is_ok() { &searches.answered } else { &searches.failed };
                count.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(100)).await;
            }
        });
        counts
    }
}

/// The cluster, and somebody who asks each of its processes.
struct Watched {
    cluster: Cluster,
    /// Shard nodes, then the coordinator.
    kubelets: Vec<Kubelet>,
    seed: u64,
}

impl Watched {
    /// Watches all processes anew, as if they had just been started.
    async fn anew(&mut self) {
        self.kubelets = self.cluster.admin_ports().into_iter().map(Kubelet::watch).collect();
        sleep(SETTLED).await;
    }

    /// Lets `harm` happen and prints a row. Returns what was seen of each process from then on.
    async fn row<T>(
        &mut self,
        what: &str,
        long: Duration,
        harm: impl AsyncFnOnce(&Cluster) -> Result<T>,
    ) -> Result<(T, Vec<Vec<Seen>>)> {
        self.anew().await;
        let before: Vec<usize> = self.kubelets.iter().map(|k| k.seen().len()).collect();
        let searches = Searches::begin(self.cluster.client()?, self.seed);
        let done = harm(&self.cluster).await?;
        sleep(long).await;
        searches.stop.store(true, Ordering::Relaxed);
        let since = |(kubelet, before): (&Kubelet, &usize)| kubelet.seen().split_off(*before);
        let seen: Vec<Vec<(Duration, Seen)>> = self.kubelets.iter().zip(&before).map(since).collect();
        let cells: Vec<String> = seen.iter().map(|s| told(s)).collect();
        let (answered, failed) = (searches.answered.load(Ordering::Relaxed), searches.failed.load(Ordering::Relaxed));
        note!("| {what} | {} | {failed} of {} |", cells.join(" | "), answered + failed);
        Ok((done, seen.into_iter().map(|s| s.into_iter().map(|(_, what)| what).collect()).collect()))
    }

    async fn well_again(&self) -> Result<()> {
        self.cluster.wait_converged(PATIENCE).await.map(drop)
    }
}

fn told(seen: &[(Duration, Seen)]) -> String {
    let one = |(at, what): &(Duration, Seen)| {
        let at = (*at).saturating_sub(SETTLED).as_secs();
        match what {
            Seen::Started => format!("started ({at} s)"),
            Seen::Ready => format!("ready ({at} s)"),
            Seen::NotReady(why) => format!("not ready ({at} s: {why})"),
            Seen::Killed(why) => format!("killed ({at} s: {why})"),
        }
    };
    match seen {
        [] => "no change".to_owned(),
        seen => seen.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

async fn fill(client: &Client, seed: u64, n: usize) -> Result<()> {
    const BATCH: usize = 500;
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
#[ignore = "seven minutes and more; see the file's head"]
async fn no_healthy_process_is_killed_and_no_useless_one_gets_traffic() -> Result<()> {
    let n = std::env::var("OMMA_TEST_VECTORS").ok().and_then(|v| v.parse().ok()).unwrap_or(100_000);
    let seed = seed("probes");
    let options = ClusterOptions { proxied: true, ..ClusterOptions::named("probes") };
    let cluster = Cluster::start(options).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    fill(&client, seed, n).await?;
    cluster.wait_converged(PATIENCE).await?;
    let mut watched = Watched { cluster, kubelets: Vec::new(), seed };
    note!("| what happens | node 0 | node 1 | node 2 | coordinator | failed searches at ANY |");
    note!("|---|---|---|---|---|---|");

    start(&mut watched, n).await?;
    leader_loss(&mut watched).await?;
    partition(&mut watched).await?;
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
    watched.kubelets = watched.cluster.admin_ports().into_iter().map(Kubelet::watch).collect();
    watched.well_again().await?;
    let took = begun.elapsed();
    sleep(SETTLED).await;
    let cells: Vec<String> = watched
        .kubelets
        .iter()
        .map(|kubelet| {
            let seen = kubelet.seen();
            let at = |what: &Seen| seen.iter().find(|(_, s)| s == what).map(|(at, _)| at.as_secs_f64());
            ensure!(seen.len() == 2, "not just started and ready: {seen:?}");
            let (started, ready) = (at(&Seen::Started).context("started")?, at(&Seen::Ready).context("ready")?);
            Ok(format!("started ({started:.1} s), ready ({ready:.1} s)"))
        })
        .collect::<Result<_>>()?;
    note!("| all nodes start, with {n} vectors (converged after {took:.1?}) | {} | |", cells.join(" | "));
    Ok(())
}

async fn leader_loss(watched: &mut Watched) -> Result<()> {
    let status = watched.cluster.wait_near(PATIENCE).await?;
    let leader = status.groups.iter().find(|g| g.group_id == 1).context("no group 1")?.leader_node_id;
    let node = watched.cluster.node_by_id(&status, leader)?;
    let what = format!("node {node}, a leader, dies");
    let (_, seen) = watched.row(&what, LONG / 2, async |cluster| cluster.kill(node)).await?;
    unharmed(&what, &seen, &[node])?;
    watched.cluster.restart(node)?;
    watched.well_again().await
}

async fn partition(watched: &mut Watched) -> Result<()> {
    let what = "node 1 is cut off from all others";
    let cut = async |cluster: &Cluster| {
        for other in [Party::Shard(0), Party::Shard(2), Party::Coordinator(0)] {
            cluster.network()?.set(other, Party::Shard(1), Link::Cut);
            cluster.network()?.set(Party::Shard(1), other, Link::Cut);
        }
        Ok(())
    };
    let (_, seen) = watched.row(what, LONG, cut).await?;
    unharmed(what, &seen, &[])?;
    watched.cluster.network()?.heal();
    watched.well_again().await
}

/// A process that hangs is of no use: it gets no traffic, and is killed.
async fn hang(watched: &mut Watched) -> Result<()> {
    let what = "node 2 hangs (SIGSTOP)";
    let (_, seen) = watched.row(what, LONG, async |cluster| cluster.pause(2)).await?;
    unharmed(what, &seen, &[2])?;
    ensure!(matches!(&*seen[2], [Seen::NotReady(_), Seen::Killed(_)]), "a process that hangs lived on: {:?}", seen[2]);
    watched.cluster.resume(2)?;
    watched.well_again().await
}

async fn full_disk(watched: &mut Watched) -> Result<()> {
    watched.cluster.kill(2)?;
    let disk = Disk::in_memory(watched.cluster.data_folder(2)?, 4 << 30)?;
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
    let (_, seen) = watched.row(what, SETTLED, fill_up).await?;
    unharmed(what, &seen, &[])?;
    disk.resize(4 << 30)?;
    watched.well_again().await?;
    // Nothing may use the disk when it goes.
    watched.cluster.kill_all()
}
