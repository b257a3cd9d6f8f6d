//! Nodes join, are drained, lose their disks, stay away: replicas move, writes go on, nothing acknowledged is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use omma_common::error::Reason;
use omma_integration_tests::client::{Client, by_vector, ids};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::convergence::image_count;
use omma_integration_tests::ingest::{Acknowledged, Ingest, IngestOptions, longest_gap};
use omma_integration_tests::note;
use omma_integration_tests::refusal::Refusal;
use omma_integration_tests::replicas::{metadata_of, missing, node_status, observed};
use omma_integration_tests::vectors::seed;
use omma_proto::v1::{
    DrainNodeRequest, ListMovesRequest, NodeState, PauseMovesRequest, RemoveNodeRequest, ReplicaRole,
    ResumeMovesRequest,
};
use tokio::time::Instant;

const COLLECTION: &str = "placement";
const DIMENSION: usize = 32;
/// So few entries stay in the log that a new replica needs a snapshot.
const FLAGS: [&str; 4] = ["--snapshot-every", "30", "--keep-logs", "10"];
/// For writes to go on; the machine may be busy with other things.
const RESUME: Duration = Duration::from_secs(90);
/// For the cluster to come to rest.
const REST: Duration = Duration::from_secs(90);

async fn start(name: &str, nodes: usize, flags: &[&str]) -> Result<(Cluster, Client, Ingest)> {
    let options = ClusterOptions { shard_nodes: nodes, ..ClusterOptions::named(name) };
    let cluster = Cluster::start(options.shard_flags(&FLAGS).shard_flags(flags)).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let options =
        IngestOptions { collection: COLLECTION.to_owned(), dimension: DIMENSION, writers: 4, seed: seed(name) };
    let ingest = Ingest::begin(&client, &options);
    ingest.wait_for(200, RESUME).await?;
    Ok((cluster, client, ingest))
}

/// Waits until nothing moves, replicas are spread evenly over `nodes` and led where they should be, and each node has
/// on its disk just what the cluster map says.
async fn at_rest(cluster: &Cluster, nodes: &[usize]) -> Result<()> {
    let begin = Instant::now();
    cluster
        .wait_until("at rest", REST, async |cluster: &Cluster, status| {
            let moves = cluster.client()?.cluster().list_moves(ListMovesRequest::default()).await?.into_inner().moves;
            ensure!(moves.is_empty(), "{} replicas are on their way", moves.len());
            let mut counts = BTreeSet::new();
            for &node in nodes {
                let wanted = node_status(cluster, &status, node)?;
                let said = observed(cluster, node).await?;
                ensure!(said.node_id == wanted.node_id, "shard node {node} is known under another id");
                let held: BTreeSet<u32> = said.held_group_ids.into_iter().collect();
                ensure!(held.len() == wanted.replica_count as usize, "shard node {node} holds {held:?}");
                counts.insert(held.len());
            }
            let (least, most) = (counts.first().context("no nodes")?, counts.last().context("no nodes")?);
            ensure!(most - least <= 1, "uneven: {counts:?}");
            let metadata = metadata_of(cluster, nodes[0]).await?;
            for group in &metadata.groups {
                let now = status.groups.iter().find(|g| g.group_id == group.group_id).context("a group vanished")?;
                ensure!(now.leader_node_id == group.replicas[0], "group {} is led elsewhere", group.group_id);
            }
            let voters = status.groups[0].replicas.iter().filter(|r| r.role() != ReplicaRole::Learner && r.reachable);
            ensure!(voters.count() == 3, "the metadata group is not whole");
            Ok(())
        })
        .await?;
    note!("at rest after {:.1?}", begin.elapsed());
    Ok(())
}

/// Every acknowledged image is on every replica, none too many, and searches find them.
async fn nothing_is_lost(cluster: &Cluster, acknowledged: &[Acknowledged]) -> Result<()> {
    cluster
        .wait_until("equal", REST, async |_: &Cluster, status| {
            for group in status.groups.iter().filter(|g| g.group_id != 0) {
                let first = group.replicas.first().context("no replicas")?;
                let equal = |r: &omma_proto::v1::ReplicaStatus| {
                    r.reachable && r.applied_index == first.applied_index && r.digest == first.digest
                };
                ensure!(group.replicas.len() == 3 && group.replicas.iter().all(equal), "group {}", group.group_id);
            }
            let count = image_count(&status);
            ensure!(count == acknowledged.len() as u64, "{count} images for {} acknowledged", acknowledged.len());
            Ok(())
        })
        .await?;
    let all: Vec<_> = acknowledged.iter().map(|a| a.id.clone()).collect();
    let lost = missing(cluster, COLLECTION, &all).await?;
    ensure!(lost.is_empty(), "{} acknowledged images are missing: {:?}", lost.len(), &lost[..lost.len().min(10)]);
    let client = cluster.client()?;
    for a in acknowledged.iter().step_by(acknowledged.len().div_ceil(100).max(1)) {
        let found = client.search(COLLECTION, by_vector(&a.vector), 1).await?;
        ensure!(ids(&found) == [a.id.as_str()], "{} is not found: {found:?}", a.id);
    }
    note!("{} acknowledged images, on every replica; longest gap {:.2?}", all.len(), longest_gap(acknowledged));
    Ok(())
}

fn drain_request(cluster: &Cluster, node: usize) -> Result<DrainNodeRequest> {
    Ok(DrainNodeRequest { node: cluster.shard_address(node)?.to_owned() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_another_is_drained_and_can_go() -> Result<()> {
    let (mut cluster, client, ingest) = start("join_and_drain", 3, &[]).await?;
    let refused = client.cluster().drain_node(drain_request(&cluster, 0)?).await.err().context("drained below 3")?;
    let refused = Refusal::of(&refused)?;
    ensure!(refused.reason == Reason::TooFewNodes.name() && refused.message.contains("3 nodes are needed"));

    let joined = cluster.add_node()?;
    at_rest(&cluster, &[0, 1, 2, joined]).await?;
    ingest.wait_for(100, RESUME).await?;

    // Whoever runs it dies half-way; so that this is certain, moves are paused when they have begun.
    client.cluster().drain_node(drain_request(&cluster, 0)?).await?;
    cluster
        .wait_until("moving", REST, async |cluster: &Cluster, _| {
            let mut client = cluster.client()?.cluster();
            let moves = client.list_moves(ListMovesRequest::default()).await?.into_inner().moves;
            ensure!(!moves.is_empty(), "no replica is on its way");
            client.pause_moves(PauseMovesRequest {}).await?;
            Ok(())
        })
        .await?;
    let status = cluster.status().await?;
    ensure!(status.moves_paused && node_status(&cluster, &status, 0)?.state() == NodeState::Draining);
    let driver = cluster.node_by_id(&status, status.groups[0].leader_node_id)?;
    cluster.kill(driver)?;
    ingest.wait_for(50, RESUME).await?;
    cluster.restart(driver)?;
    ensure!(node_status(&cluster, &cluster.status().await?, 0)?.replica_count > 0, "paused moves went on");
    let resume =
        async |cluster: &Cluster, _| Ok(cluster.client()?.cluster().resume_moves(ResumeMovesRequest {}).await?);
    cluster.wait_until("resumed", RESUME, resume).await?;
    let begin = Instant::now();
    cluster
        .wait_until("drained", REST, async |cluster: &Cluster, status| {
            let state = node_status(cluster, &status, 0)?.state();
            ensure!(state == NodeState::Drained, "shard node 0 is {state:?}");
            Ok(())
        })
        .await?;
    note!("drained {:.1?} after the moves were resumed; shard node {driver} had died meanwhile", begin.elapsed());
    let said = observed(&cluster, 0).await?;
    ensure!(said.held_group_ids.is_empty(), "a drained node holds {:?}", said.held_group_ids);
    ensure!(said.replicas.iter().all(|r| r.group_id == 0 && !r.voter_ids.contains(&said.node_id)), "{said:?}");

    cluster.kill(0)?;
    client.cluster().remove_node(RemoveNodeRequest { node: said.node_id.to_string() }).await?;
    ingest.wait_for(100, RESUME).await?;
    let acknowledged = ingest.finish().await?;
    at_rest(&cluster, &[1, 2, joined]).await?;
    nothing_is_lost(&cluster, &acknowledged).await?;

    // A removed node that comes back is told.
    cluster.restart(0)?;
    let begin = Instant::now();
    while !cluster.shard_process(0)?.log_tail(20_000).contains("was removed from the cluster") {
        ensure!(begin.elapsed() < RESUME, "shard node 0 was not told that it was removed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    ensure!(cluster.status().await?.nodes.iter().all(|n| n.node_id != said.node_id), "it is back");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_a_new_disk_is_rebuilt() -> Result<()> {
    let (cluster, _, ingest) = start("wiped_node", 3, &[]).await?;
    let before = node_status(&cluster, &cluster.status().await?, 1)?.node_id;
    cluster.kill(1)?;
    cluster.wipe(1)?;
    ingest.wait_for(100, RESUME).await?;
    cluster.restart(1)?;
    let begin = Instant::now();
    cluster
        .wait_until("rebuilt", REST, async |cluster: &Cluster, status| {
            let now = node_status(cluster, &status, 1)?;
            ensure!(now.node_id != before && now.replica_count == 3, "{} replicas", now.replica_count);
            ensure!(status.nodes.len() == 3, "{} nodes", status.nodes.len());
            Ok(())
        })
        .await?;
    note!("rebuilt {:.1?} after the restart", begin.elapsed());
    at_rest(&cluster, &[0, 1, 2]).await?;
    ingest.wait_for(50, RESUME).await?;
    let acknowledged = ingest.finish().await?;
    nothing_is_lost(&cluster, &acknowledged).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stays_away_is_replaced_and_may_come_back() -> Result<()> {
    let (cluster, _, ingest) = start("stays_away", 4, &["--replace-after", "8"]).await?;
    let status = cluster.status().await?;
    let gone = cluster.node_by_id(&status, status.groups[0].leader_node_id)?;
    let had = node_status(&cluster, &status, gone)?.replica_count;
    ensure!(had > 0);
    cluster.kill(gone)?;
    let begin = Instant::now();
    cluster
        .wait_until("replaced", REST, async |cluster: &Cluster, status| {
            let left = node_status(cluster, &status, gone)?.replica_count;
            ensure!(left == 0, "{left} replicas are still placed on the node that is away");
            Ok(())
        })
        .await?;
    note!("{had} replicas replaced {:.1?} after shard node {gone} was killed", begin.elapsed());
    let others: Vec<usize> = (0..4).filter(|n| *n != gone).collect();
    at_rest(&cluster, &others).await?;
    cluster.restart(gone)?;
    at_rest(&cluster, &[0, 1, 2, 3]).await?;
    let acknowledged = ingest.finish().await?;
    if longest_gap(&acknowledged) > RESUME {
        bail!("writes stood still for {:?}", longest_gap(&acknowledged));
    }
    nothing_is_lost(&cluster, &acknowledged).await
}
