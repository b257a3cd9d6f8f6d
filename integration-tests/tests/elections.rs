//! How often a leader is given up for no reason: the price of a short election timeout. Not part of the default run:
//! `cargo test -p omma-integration-tests --test elections -- --ignored --nocapture`.
//!
//! `OMMA_ELECTION_TIMEOUT` is passed on to the nodes.

use std::time::Duration;

use anyhow::Result;
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::ingest::{Ingest, IngestOptions};
use omma_integration_tests::note;
use omma_integration_tests::vectors::seed;
use omma_proto::v1::GetClusterStatusResponse;

const COLLECTION: &str = "elections";
/// Under load, with nobody harmed.
const WATCH: Duration = Duration::from_secs(60);

fn terms(status: &GetClusterStatusResponse) -> u64 {
    status.groups.iter().map(|g| g.term).sum()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute; measures"]
async fn leaders_stay_while_nobody_dies() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("elections")).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(8)).await?;
    let writers =
        IngestOptions { collection: COLLECTION.to_owned(), dimension: 8, writers: 8, seed: seed("elections") };
    let ingest = Ingest::begin(&client, &writers);
    let (before, count) = (terms(&cluster.status().await?), ingest.count());
    tokio::time::sleep(WATCH).await;
    let (after, done) = (terms(&cluster.status().await?), ingest.count() - count);
    note!("{} elections of 4 groups in {WATCH:.0?} of load ({done} writes), with nobody harmed", after - before);
    ingest.finish().await.map(drop)
}
