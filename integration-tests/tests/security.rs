//! A cluster of real processes under TLS, with API keys: it works, and strangers get nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use omma_common::error::{Reason, reason_of};
use omma_common::tls::PeerKind;
use omma_integration_tests::client::{Client, by_vector, channel, ids, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_proto::internal::v1::metadata_service_client::MetadataServiceClient;
use omma_proto::internal::v1::raft_service_client::RaftServiceClient;
use omma_proto::internal::v1::{DiscoverRequest, GetMetadataRequest, JoinRequest, VoteRequest};
use tonic::Code;
use tonic::transport::Channel;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_cluster_serves_its_own_and_nobody_else() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("security").secured()).await?;
    let client = cluster.client()?;
    client.create("c", Some(2)).await?;
    client.store("c", vec![vector_image("a", vec![1.0, 0.0]), vector_image("b", vec![0.0, 1.0])], PATIENCE).await?;
    let found = client.search("c", by_vector(&[1.0, 0.1]), 1).await?;
    ensure!(ids(&found) == ["a"], "{found:?}");

    strangers_at_the_public_port(&cluster).await?;
    the_audit_log_says_who_did_what(&cluster)?;
    strangers_at_the_peer_port(&cluster).await?;
    a_node_comes_back_under_a_new_certificate(&cluster).await
}

async fn strangers_at_the_public_port(cluster: &Cluster) -> Result<()> {
    let (secured, address) = (cluster.secured()?, cluster.address()?);
    let plain = Client::to(address)?.status().await.err().context("plaintext was served")?;
    ensure!(plain.code() != Code::Ok && reason_of(&plain).is_none(), "{plain:?}");
    let wrong = Client::with_key(secured.channel(address)?, "omma.test.wrong")?;
    let refused = wrong.status().await.err().context("a wrong key was taken")?;
    ensure!(reason_of(&refused) == Some(Reason::Unauthenticated), "{refused:?}");
    Ok(())
}

fn the_audit_log_says_who_did_what(cluster: &Cluster) -> Result<()> {
    let log = cluster.coordinator_process(0)?.log()?;
    for (rpc, who, outcome) in [
        ("CreateCollection", "key:test", "OK"),
        ("PutImages", "key:test", "OK"),
        ("GetClusterStatus", "unknown", "UNAUTHENTICATED"),
    ] {
        let says = |line: &str| [rpc, who, outcome, "audit", "127.0.0.1"].iter().all(|part| line.contains(part));
        ensure!(log.lines().any(says), "no line about {rpc} of {who}: {log}");
    }
    Ok(())
}

async fn strangers_at_the_peer_port(cluster: &Cluster) -> Result<()> {
    let (secured, shard) = (cluster.secured()?, cluster.shard_address(0)?);
    // Nothing without TLS.
    let plain = MetadataServiceClient::new(channel(shard)?).discover(DiscoverRequest {}).await;
    ensure!(plain.is_err(), "plaintext was served");
    // Nothing with the authority's certificate of no kind: TLS as a client has it.
    let client = MetadataServiceClient::new(secured.channel(shard)?).discover(DiscoverRequest {}).await;
    ensure!(client.is_err(), "a client was served");
    // A coordinator may ask, but neither vote nor join.
    let coordinator = secured.peer_channel("coordinator", shard)?;
    let mut metadata = MetadataServiceClient::new(coordinator.clone());
    metadata.get_metadata(GetMetadataRequest::default()).await?;
    let vote = RaftServiceClient::new(coordinator).vote(VoteRequest::default()).await.err().context("it voted")?;
    ensure!(reason_of(&vote) == Some(Reason::PermissionDenied), "{vote:?}");
    the_log_does_not_tell_of_each(cluster, &mut metadata).await?;
    let join = metadata.join(JoinRequest::default()).await.err().context("it joined")?;
    ensure!(reason_of(&join) == Some(Reason::PermissionDenied), "{join:?}");
    // A shard node's certificate is let through, to where the request itself is judged.
    let vote = RaftServiceClient::new(secured.peer_channel("shard", shard)?).vote(VoteRequest::default()).await;
    ensure!(vote.as_ref().err().and_then(reason_of) != Some(Reason::PermissionDenied), "{vote:?}");
    Ok(())
}

/// Whoever has a coordinator's certificate cannot fill a node's disk with its refusals.
async fn the_log_does_not_tell_of_each(cluster: &Cluster, peer: &mut MetadataServiceClient<Channel>) -> Result<()> {
    let begin = Instant::now();
    for _ in 0..200 {
        ensure!(peer.join(JoinRequest::default()).await.is_err(), "it joined");
    }
    let log = cluster.shard_process(0)?.log()?;
    let lines = log.lines().filter(|line| line.contains("certificate does not allow")).count();
    let most = 22 + (20.0 * begin.elapsed().as_secs_f64()) as usize;
    ensure!((10..=most).contains(&lines), "{lines} lines where {most} may be");
    Ok(())
}

async fn a_node_comes_back_under_a_new_certificate(cluster: &Cluster) -> Result<()> {
    cluster.secured()?.issue("shard", Some(PeerKind::Shard))?;
    cluster.kill(1)?;
    cluster.restart(1)?;
    let status = cluster.wait_converged(Duration::from_secs(60)).await?;
    ensure!(status.nodes.iter().all(|n| n.reachable), "{status:?}");
    let found = cluster.client()?.search("c", by_vector(&[0.1, 1.0]), 1).await?;
    ensure!(ids(&found) == ["b"], "{found:?}");
    Ok(())
}
