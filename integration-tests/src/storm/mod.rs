//! Storms: faults drawn from a seed, clients that work under them, and the checks while it lasts and after it.
//!
//! [`schedule`] draws the faults (pure), [`act`] does them to a cluster, [`load`] is what clients do meanwhile,
//! [`after`] is what must hold when it is over.

pub mod act;
pub mod after;
mod client;
pub mod load;
pub mod schedule;
mod tries;
pub mod values;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::time::Instant;

use crate::cluster::{Cluster, ClusterOptions};
use crate::convergence::image_count;
use crate::history::Tally;
use after::Recall;
use load::{Counts, Load, LoadOptions};
use schedule::{Event, draw};

/// For replicas to be equal after the last fault.
const CALM: Duration = Duration::from_secs(60);
/// How much of recall a storm may cost.
const RECALL_LOSS: f64 = 0.005;
const COLLECTION: &str = "storm";

/// A storm to come.
#[derive(Debug, Clone)]
pub struct StormOptions {
    /// Decides faults and operations.
    pub seed: u64,
    /// How long faults begin.
    pub lasts: Duration,
    /// Clients at once.
    pub clients: usize,
}

/// What a storm was like.
#[derive(Debug, Clone)]
pub struct Report {
    /// Faults that were done, in order.
    pub faults: Vec<&'static str>,
    /// Operations by outcome.
    pub tally: Tally,
    /// What else clients counted.
    pub counts: Counts,
    /// From the end of the last fault until all replicas were equal.
    pub converged: Duration,
    /// Recall@10 before and after.
    pub recall: (f64, f64),
}

/// The cluster that storms are for: three nodes, two coordinators, every link a proxy's; little log, so that replicas
/// that were away need snapshots.
pub fn cluster_options(name: &str) -> ClusterOptions {
    let options = ClusterOptions { proxied: true, coordinators: 2, ..ClusterOptions::named(name) };
    options.shard_flags(&["--snapshot-every", "300", "--keep-logs", "100"])
}

/// Starts a cluster, lets a storm pass over it, and checks everything.
///
/// # Errors
/// With the seed and the schedule, if anything is not as promised.
pub async fn run(cluster: ClusterOptions, storm: &StormOptions) -> Result<Report> {
    let events = draw(storm.seed, cluster.shard_nodes, cluster.groups, storm.lasts);
    let told: String = events.iter().map(|e| format!("\n  {e}")).collect();
    let cluster = Cluster::start(cluster).await?;
    let outcome = pass_over(&cluster, storm, &events).await;
    outcome.with_context(|| format!("{}={}, faults:{told}\n", crate::vectors::SEED_VARIABLE, storm.seed))
}

async fn pass_over(cluster: &Cluster, storm: &StormOptions, events: &[Event]) -> Result<Report> {
    let clients = (0..cluster.coordinators()).map(|i| cluster.client_of(i)).collect::<Result<Vec<_>>>()?;
    clients[0].create(COLLECTION, Some(values::DIMENSION as u32)).await?;
    let recall = Recall::prepare(&clients[0], COLLECTION, storm.seed).await?;
    let before = recall.measure(std::iter::empty()).await?;

    let options = LoadOptions { collection: COLLECTION.to_owned(), seed: storm.seed, clients: storm.clients };
    let load = Load::begin(&clients, &options);
    let faults = act::pass(cluster, events).await?;
    let begin = Instant::now();
    act::calm(cluster)?;
    load.wait_for(100, CALM).await.context("after the storm")?;
    let seen = load.finish().await?;
    let status = cluster.wait_converged(CALM.saturating_sub(begin.elapsed())).await?;
    let converged = begin.elapsed();

    let present = after::read_all(&clients[0], COLLECTION, &seen).await?;
    seen.history.check()?;
    let violations = seen.violations();
    if !violations.is_empty() {
        bail!("{} violations:\n  {}", violations.len(), violations.join("\n  "));
    }
    let (counted, expected) = (image_count(&status), (present.len() + Recall::IMAGES) as u64);
    if counted != expected {
        bail!("{counted} images in the cluster, but reads find {expected}");
    }
    after::any_replica_agrees(&clients[0], COLLECTION, &seen, &present).await?;
    let after = recall.measure(&present).await?;
    if after < before - RECALL_LOSS {
        bail!("recall@10 was {before:.4} before and is {after:.4}");
    }
    Ok(Report { faults, tally: seen.history.tally(), counts: seen.counts(), converged, recall: (before, after) })
}
