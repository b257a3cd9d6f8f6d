//! More than the cluster can do: what is served keeps its latency, the rest is refused early, and one client's flood is
//! that client's own wait. Slow; run by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use omma_integration_tests::client::{Client, picture_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::shared_data;
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, jpeg};
use omma_proto::v1::query::Target;
use tokio::task::JoinSet;
use tonic::Code;

const COLLECTION: &str = "c";
const PATIENCE: Duration = Duration::from_secs(30);
const FLOODERS: usize = 16;
const POLITE_SEARCHES: usize = 200;

/// The share of `percent` that is faster than what is returned.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or_default()
}

async fn started(name: &str) -> Result<(Cluster, Client, Bytes)> {
    let cluster = Cluster::start(ClusterOptions::single(name).secured()).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, None).await?;
    let picture = jpeg(&draw(1, 400, 300), 90)?;
    client.store(COLLECTION, vec![picture_image("known", picture.clone())], PATIENCE).await?;
    Ok((cluster, client, picture))
}

/// One after the other; none may fail.
async fn polite(client: &Client, picture: &Bytes) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for _ in 0..POLITE_SEARCHES {
        let begin = Instant::now();
        let found = client.search(COLLECTION, Target::Picture(picture.clone()), 1).await?;
        took.push(begin.elapsed());
        ensure!(found.hits.first().is_some_and(|h| h.id == "known"), "{found:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took.sort_unstable();
    Ok(took)
}

fn hostile_files(folder: &Path) -> Result<Vec<Bytes>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    files.iter().map(|path| Ok(std::fs::read(path)?.into())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute; measures"]
async fn a_flood_of_hostile_pictures_beside_a_polite_client() -> Result<()> {
    let Some(folder) = shared_data("malformed/synthetic") else { return Ok(()) };
    let files = Arc::new(hostile_files(&folder)?);
    let (cluster, client, picture) = started("flood").await?;
    let other = cluster.secured()?.other_key().to_owned();
    let quiet = polite(&client, &picture).await?;

    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut flood = JoinSet::new();
    for n in 0..FLOODERS {
        let flooder = Client::with_key(cluster.secured()?.channel(cluster.address()?)?, &other)?;
        let (files, stop, sent) = (files.clone(), stop.clone(), sent.clone());
        flood.spawn(async move {
            let mut at = n;
            while !stop.load(Ordering::Relaxed) {
                let picture = files[at % files.len()].clone();
                at += 1;
                let _ = flooder.search(COLLECTION, Target::Picture(picture), 1).await;
                sent.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begin = (Instant::now(), sent.load(Ordering::Relaxed));
    let beside = polite(&client, &picture).await;
    let rate = (sent.load(Ordering::Relaxed) - begin.1) as f64 / begin.0.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    flood.join_all().await;
    let beside = beside.context("the polite client was hurt")?;

    let memory = cluster.shard_process(0)?.memory()?;
    for (name, took) in [("quiet", &quiet), ("beside the flood", &beside)] {
        note!("polite client, {name}: p50 {:.1?}, p99 {:.1?}", percentile(took, 50), percentile(took, 99));
    }
    note!("the flood: {rate:.0} hostile pictures a second; the node's memory at its peak: {} MiB", memory.peak >> 20);
    let (quiet, beside) = (percentile(&quiet, 99), percentile(&beside, 99));
    ensure!(beside < quiet * 3 + Duration::from_millis(5), "p99 {beside:?}, quiet {quiet:?}");
    Ok(())
}

#[derive(Debug, Default)]
struct Outcome {
    served: Vec<Duration>,
    shed: Vec<Duration>,
    failed: usize,
}

/// Requests at `rate` a second for `time`, whether or not those before are answered.
async fn load(clients: &[Client], picture: &Bytes, rate: f64, time: Duration) -> Result<Outcome> {
    let mut calls = JoinSet::new();
    let (begin, mut n) = (Instant::now(), 0u32);
    while begin.elapsed() < time {
        let due = Duration::from_secs_f64(f64::from(n) / rate);
        tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
        let (client, picture) = (clients[n as usize % clients.len()].clone(), picture.clone());
        n += 1;
        calls.spawn(async move {
            let begin = Instant::now();
            let answer = client.search(COLLECTION, Target::Picture(picture), 1).await;
            (answer.err().map(|status| status.code()), begin.elapsed())
        });
    }
    let mut outcome = Outcome::default();
    for (code, took) in calls.join_all().await {
        match code {
            None => outcome.served.push(took),
            Some(Code::ResourceExhausted) => outcome.shed.push(took),
            Some(_) => outcome.failed += 1,
        }
    }
    outcome.served.sort_unstable();
    outcome.shed.sort_unstable();
    Ok(outcome)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute; measures"]
async fn above_capacity_the_served_share_keeps_its_latency() -> Result<()> {
    const TIME: Duration = Duration::from_secs(10);
    let (cluster, client, picture) = started("overload").await?;
    let clients: Vec<Client> = (0..4).map(|_| cluster.client()).collect::<Result<_>>()?;
    // Closed loop: four clients that wait for each answer.
    let begin = Instant::now();
    let mut workers = JoinSet::new();
    for client in clients.clone() {
        let picture = picture.clone();
        workers.spawn(async move {
            let (begin, mut n) = (Instant::now(), 0u32);
            while begin.elapsed() < Duration::from_secs(5) {
                n += u32::from(client.search(COLLECTION, Target::Picture(picture.clone()), 1).await.is_ok());
            }
            n
        });
    }
    let capacity = f64::from(workers.join_all().await.iter().sum::<u32>()) / begin.elapsed().as_secs_f64();
    note!("capacity: {capacity:.0} searches by picture a second");
    note!("| offered | served a second | p50 | p99 | refused | p99 of refusals |");
    note!("|---|---|---|---|---|---|");
    for times in [0.5, 1.0, 2.0, 5.0] {
        let o = load(&clients, &picture, capacity * times, TIME).await?;
        let (served, refused) = (o.served.len() as f64 / TIME.as_secs_f64(), o.shed.len());
        let (p50, p99) = (percentile(&o.served, 50), percentile(&o.served, 99));
        note!("| {times} × | {served:.0} | {p50:.0?} | {p99:.0?} | {refused} | {:.0?} |", percentile(&o.shed, 99));
        ensure!(o.failed == 0, "{} failed otherwise", o.failed);
        ensure!(p99 < Duration::from_secs(2), "p99 at {times} ×: {p99:?}");
    }
    client.search(COLLECTION, Target::Picture(picture), 1).await?;
    Ok(())
}
