//! The polite client that works beside an attack, and the attack's row of the table.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use omma_integration_tests::client::{Client, picture_image};
use omma_integration_tests::cluster::Cluster;
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, jpeg};
use omma_proto::v1::query::Target;

use super::{COLLECTION, NODE_MEMORY};

/// The polite client's address, where clients are told apart by theirs.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the coordinator, in MiB.
const COORDINATOR_MEMORY: u64 = 512;
/// What a neighbour's search may take on a busy machine, in the dev profile.
const MOST_WAIT: Duration = Duration::from_secs(5);

/// A client of a cluster that knows one picture.
pub(crate) async fn prepared(cluster: &Cluster) -> Result<Client> {
    let client = cluster.client()?;
    client.create(COLLECTION, None).await?;
    let known = jpeg(&draw(1, 200, 200), 90)?;
    client.store(COLLECTION, vec![picture_image("known", known)], PATIENCE).await?;
    note!(
        "| attack | what was sent | what came back | time | memory at peak, coordinator and node | neighbour's slowest search |"
    );
    note!("|---|---|---|---|---|---|");
    Ok(client)
}

/// Makes an attack beside a polite client, and prints its row.
pub(crate) async fn attack(
    cluster: &Cluster,
    name: &str,
    sent: &str,
    work: impl Future<Output = Result<String>>,
) -> Result<()> {
    let polite = match cluster.secured() {
        Ok(_) => cluster.client()?,
        Err(_) => Client::from(ADDRESS, cluster.address()?)?,
    };
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let attacking = async {
        let outcome = tokio::time::timeout(Duration::from_secs(60), work).await;
        stop.store(true, Ordering::Relaxed);
        outcome.with_context(|| format!("{name}: the attack hung"))?.with_context(|| name.to_owned())
    };
    let neighbour = async {
        let (mut slowest, picture) = (Duration::ZERO, jpeg(&draw(1, 200, 200), 90)?);
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let found = polite.search(COLLECTION, Target::Picture(picture.clone()), 1).await;
            let found = found.with_context(|| format!("{name}: the neighbour was refused"))?;
            ensure!(found.hits.first().is_some_and(|h| h.id == "known"), "{name}: {found:?}");
            slowest = slowest.max(begin.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(slowest)
    };
    let (outcome, slowest) = tokio::join!(attacking, neighbour);
    let (outcome, slowest, took) = (outcome?, slowest?, begin.elapsed());
    let (coordinator, node) = (cluster.coordinator_process(0)?.memory()?, cluster.shard_process(0)?.memory()?);
    let peak = (coordinator.peak >> 20, node.peak >> 20);
    note!("| {name} | {sent} | {outcome} | {took:.1?} | {} and {} MiB | {slowest:.0?} |", peak.0, peak.1);
    ensure!(slowest < MOST_WAIT, "{name}: the neighbour waited {slowest:?}");
    ensure!(peak.0 < COORDINATOR_MEMORY && peak.1 < NODE_MEMORY, "{name}: {peak:?} MiB");
    Ok(())
}
