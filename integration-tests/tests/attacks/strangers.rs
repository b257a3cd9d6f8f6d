//! Who has no certificate, a wrong one, or a token that nobody signed.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use omma_common::error::{Reason, reason_of};
use omma_common::serve::{ConnectionLimits, Incoming, Security};
use omma_common::tls::PeerKind;
use omma_integration_tests::client::{Client, channel};
use omma_integration_tests::cluster::Cluster;
use omma_proto::internal::v1::DiscoverRequest;
use omma_proto::internal::v1::metadata_service_client::MetadataServiceClient;
use tokio::net::TcpListener;

/// The example of RFC 7517, A.1.
pub(crate) const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","use":"sig","kid":"1","alg":"ES256",
"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
/// `{"alg":"none","kid":"1"}`, and claims of that issuer with all roles until 2100.
const UNSIGNED: &str = concat!(
    "eyJhbGciOiJub25lIiwia2lkIjoiMSJ9.eyJpc3MiOiJodHRwczovL2lkIiwiYXVkIjoib21tYSIsInN1YiI6ImV2Z",
    "SIsImV4cCI6NDEwMjQ0NDgwMCwib21tYV9yb2xlcyI6WyJyZWFkIiwid3JpdGUiLCJhZG1pbiJdLCJvbW1hX2NvbGx",
    "lY3Rpb25zIjpbIioiXX0.",
);

/// What is no TLS, and TLS of somebody without a certificate of the cluster.
pub(crate) async fn peer_port(cluster: &Cluster) -> Result<String> {
    let (secured, node) = (cluster.secured()?, cluster.shard_address(0)?);
    let begin = Instant::now();
    for n in 0..300 {
        let channel = if n % 2 == 0 { channel(node)? } else { secured.channel(node)? };
        let answer = MetadataServiceClient::new(channel).discover(DiscoverRequest {}).await;
        ensure!(answer.as_ref().is_err_and(|e| reason_of(e).is_none()), "a client was served: {answer:?}");
    }
    // The log tells of some, and how many the others were.
    let log = cluster.shard_process(0)?.log()?;
    let lines: Vec<_> = log.lines().filter(|line| line.contains("its TLS handshake failed")).collect();
    let most = 21 + (20.0 * begin.elapsed().as_secs_f64()) as usize;
    ensure!((10..=most).contains(&lines.len()), "{} lines where {most} may be", lines.len());
    Ok("the handshake fails".into())
}

pub(crate) async fn expired(cluster: &Cluster) -> Result<String> {
    let secured = cluster.secured()?;
    let over = SystemTime::now() - Duration::from_secs(2 * 86_400);
    secured.issue_for("expired", Some(PeerKind::Shard), "127.0.0.1", over)?;
    for _ in 0..100 {
        let channel = secured.peer_channel("expired", cluster.shard_address(0)?)?;
        let answer = MetadataServiceClient::new(channel).discover(DiscoverRequest {}).await;
        ensure!(answer.as_ref().is_err_and(|e| reason_of(e).is_none()), "an expired certificate was taken: {answer:?}");
    }
    Ok("the handshake fails".into())
}

/// Somebody with a certificate of the cluster's authority stands where a node should be.
pub(crate) async fn wrong_name(cluster: &Cluster) -> Result<String> {
    let secured = cluster.secured()?;
    secured.issue_for("other", Some(PeerKind::Shard), "shard-9.example", SystemTime::now())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let mut incoming = Incoming::over(listener, Security::peers(&secured.peer("other"))?, ConnectionLimits::default());
    let served = async {
        let _ = incoming.next().await;
        bail!("a node was dialled that is another")
    };
    let dialled = async {
        for _ in 0..100 {
            let channel = secured.peer_channel("coordinator", &address)?;
            let answer = MetadataServiceClient::new(channel).discover(DiscoverRequest {}).await;
            ensure!(answer.is_err(), "{answer:?}");
        }
        Ok("whoever dials ends the handshake".to_owned())
    };
    tokio::select! {
        served = served => served,
        dialled = dialled => dialled,
    }
}

pub(crate) async fn unsigned(cluster: &Cluster) -> Result<String> {
    let (secured, address) = (cluster.secured()?, cluster.address()?);
    let stranger = Client::with_key(secured.channel(address)?, UNSIGNED)?;
    for _ in 0..500 {
        let refused = stranger.status().await.err().context("an unsigned token was taken")?;
        ensure!(reason_of(&refused) == Some(Reason::Unauthenticated), "{refused:?}");
    }
    Ok("`UNAUTHENTICATED`".into())
}
