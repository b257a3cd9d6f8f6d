//! Every process is restarted in turn with SIGTERM, as a rolling upgrade does it, under load through the client library
//! with its default retries: no search fails, no write is lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_client::proto::Consistency;
use omma_client::{ClientError, Omma, SearchOptions, image_from_embedding, query};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::convergence::image_count;
use omma_integration_tests::note;
use omma_integration_tests::replicas::missing;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use tokio::task::JoinSet;
use tokio::time::Instant;

const COLLECTION: &str = "rolling";
const DIMENSION: usize = 32;
/// Loads of each kind, half of them through each coordinator.
const LOADS: u64 = 4;
/// Between two calls of one load: the machine is to restart processes, not only to serve.
const PAUSE: Duration = Duration::from_millis(10);
/// As Kubernetes gives it.
const GRACE: Duration = Duration::from_secs(30);
const CATCH_UP: Duration = Duration::from_secs(60);

/// What a load saw.
#[derive(Debug, Default)]
struct Seen {
    /// Acknowledged ids; for searches their number matters.
    done: Vec<String>,
    failures: Vec<ClientError>,
    slowest: Duration,
}

impl Seen {
    fn note(&mut self, id: String, begun: Instant, outcome: Result<(), ClientError>) {
        self.slowest = self.slowest.max(begun.elapsed());
        match outcome {
            Ok(()) => self.done.push(id),
            Err(error) => self.failures.push(error),
        }
    }

    fn add(&mut self, other: Self) {
        self.done.extend(other.done);
        self.failures.extend(other.failures);
        self.slowest = self.slowest.max(other.slowest);
    }
}

async fn write(omma: Omma, load: u64, seed: u64, stop: Arc<AtomicBool>, count: Arc<AtomicU64>) -> Seen {
    let (mut rng, mut seen) = (generator(seed, load), Seen::default());
    while !stop.load(Ordering::Relaxed) {
        let id = format!("w{load}-{}", seen.done.len() + seen.failures.len());
        let begun = Instant::now();
        let image = image_from_embedding(&id, unit_vector(&mut rng, DIMENSION));
        let outcome = omma.put_images(COLLECTION, vec![image]).await;
        let outcome = outcome.and_then(|mut all| all.remove(0).result.map(drop));
        seen.note(id, begun, outcome);
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(PAUSE).await;
    }
    seen
}

async fn search(omma: Omma, load: u64, seed: u64, stop: Arc<AtomicBool>) -> Seen {
    let (mut rng, mut seen) = (generator(seed, 100 + load), Seen::default());
    let options = SearchOptions { consistency: Consistency::Any, ..SearchOptions::default() };
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let query = query::embedding(unit_vector(&mut rng, DIMENSION), 5);
        let outcome = omma.search(COLLECTION, query, &options).await;
        seen.note(String::new(), begun, outcome.map(drop));
        tokio::time::sleep(PAUSE).await;
    }
    seen
}

async fn all(mut loads: JoinSet<Seen>) -> Result<Seen> {
    let mut seen = Seen::default();
    while let Some(one) = loads.join_next().await {
        seen.add(one.context("a load panicked")?);
    }
    Ok(seen)
}

/// One process after the other, each only when the one before is back.
async fn restart_all(cluster: &Cluster, coordinators: usize) -> Result<()> {
    for node in 0..cluster.nodes() {
        let begin = Instant::now();
        let process = cluster.shard_process(node)?;
        tokio::task::block_in_place(|| process.terminate(GRACE))?;
        let down = begin.elapsed();
        cluster.restart(node)?;
        cluster.wait_near(CATCH_UP).await?;
        note!("shard node {node}: ended in {down:.2?}, back after {:.2?}", begin.elapsed());
    }
    for i in 0..coordinators {
        let begin = Instant::now();
        let process = cluster.coordinator_process(i)?;
        tokio::task::block_in_place(|| process.terminate(GRACE))?;
        let down = begin.elapsed();
        process.start()?;
        cluster.wait_ready(CATCH_UP).await?;
        note!("coordinator {i}: ended in {down:.2?}, back after {:.2?}", begin.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_costs_no_search_and_no_write() -> Result<()> {
    let seed = seed("rolling_restart");
    let coordinators = 2;
    let cluster = Cluster::start(ClusterOptions { coordinators, ..ClusterOptions::named("rolling_restart") }).await?;
    cluster.client()?.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (mut writers, mut searchers) = (JoinSet::new(), JoinSet::new());
    for load in 0..LOADS {
        let omma = Omma::connect(cluster.coordinator_address(load as usize % coordinators)?).await?;
        writers.spawn(write(omma.clone(), load, seed, stop.clone(), count.clone()));
        searchers.spawn(search(omma, load, seed, stop.clone()));
    }
    restart_all(&cluster, coordinators).await?;
    let before = count.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(1)).await;
    ensure!(count.load(Ordering::Relaxed) > before, "writes do not go on");
    stop.store(true, Ordering::Relaxed);
    let (written, searched) = (all(writers).await?, all(searchers).await?);

    note!(
        "{} writes, slowest {:.2?}; {} searches, slowest {:.2?}",
        written.done.len(),
        written.slowest,
        searched.done.len(),
        searched.slowest
    );
    ensure!(
        searched.failures.is_empty(),
        "{} searches failed: {:?}",
        searched.failures.len(),
        searched.failures.first()
    );
    ensure!(written.failures.is_empty(), "{} writes failed: {:?}", written.failures.len(), written.failures.first());
    let status = cluster.wait_converged(CATCH_UP).await?;
    let lost = missing(&cluster, COLLECTION, &written.done).await?;
    ensure!(lost.is_empty(), "{} acknowledged images are missing: {:?}", lost.len(), lost.first());
    ensure!(image_count(&status) == written.done.len() as u64, "{} images", image_count(&status));
    Ok(())
}
