//! A locked cluster whose connections grow old and whose certificates, and at last their authority, are exchanged while
//! it works: nobody is refused but a thief.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use omma_client::{IngestOptions, Omma, SearchOptions, image_from_embedding, query};
use omma_common::tls::PeerKind;
use omma_integration_tests::client::{Client, picture_image, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, png};
use omma_integration_tests::secured::Secured;
use omma_proto::internal::v1::GetMetadataRequest;
use omma_proto::internal::v1::metadata_service_client::MetadataServiceClient;
use omma_proto::v1::query::Target;
use tokio::task::JoinHandle;
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(30);
/// Of connections, in seconds: so that there are many during the test.
const AGE: &str = "2";
/// Between two looks of a process at its files, and a little more.
const SEEN: Duration = Duration::from_millis(3_500);
/// Images of the stream that outlives its connections, and between two of them.
const STREAMED: u64 = 150;
const EVERY: Duration = Duration::from_millis(60);

/// Writes and searches one after the other until it is told to stop: how many, and how long the slowest pair took. None fails.
fn work(omma: Omma, stop: Arc<AtomicBool>) -> JoinHandle<Result<(usize, Duration)>> {
    tokio::spawn(async move {
        let (mut done, mut slowest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let (id, begin) = (format!("w{done}"), Instant::now());
            let put = omma.put_images("c", vec![image_from_embedding(&id, vec![1.0, done as f32])]).await;
            let put = put.with_context(|| format!("the put of {id} failed"))?;
            ensure!(put.iter().all(|outcome| outcome.result.is_ok()), "{put:?}");
            let found = omma.search("c", query::embedding(vec![1.0, done as f32], 1), &SearchOptions::default()).await;
            let found = found.with_context(|| format!("the search for {id} failed"))?;
            ensure!(!found.hits.is_empty(), "{found:?}");
            slowest = slowest.max(begin.elapsed());
            done += 1;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok((done, slowest))
    })
}

/// A stream of the client library that lasts longer than several connections: every image has one good outcome.
async fn stream(omma: &Omma) -> Result<()> {
    let images = futures::stream::iter(0..STREAMED).then(|n| async move {
        tokio::time::sleep(EVERY).await;
        image_from_embedding(format!("s{n}"), vec![n as f32, 1.0])
    });
    let mut outcomes = omma.ingest("c", images, IngestOptions::default());
    let mut positions = Vec::new();
    while let Some(outcome) = outcomes.next().await {
        let outcome = outcome?;
        outcome.result.with_context(|| format!("image {} was refused", outcome.id))?;
        positions.push(outcome.position);
    }
    positions.sort_unstable();
    ensure!(positions == (0..STREAMED).collect::<Vec<_>>(), "{positions:?}");
    Ok(())
}

/// New certificates of a new authority for all, in the order that lets everybody believe everybody throughout.
async fn exchange(secured: &Secured) -> Result<()> {
    let new = Secured::new_authority()?;
    secured.believe(true, &new)?;
    tokio::time::sleep(SEEN).await;
    for (name, kind) in
        [("shard", Some(PeerKind::Shard)), ("coordinator", Some(PeerKind::Coordinator)), ("public", None)]
    {
        secured.issue_by(&new, name, kind)?;
    }
    tokio::time::sleep(SEEN).await;
    secured.believe(false, &new)?;
    tokio::time::sleep(SEEN).await;
    Ok(())
}

/// Puts and searches by picture, until then: how many. None is tried twice by the client.
async fn calls(client: Client, worker: usize, until: Instant) -> Result<usize> {
    let (picture, mut done) = (png(&draw(1, 64, 64))?, 0);
    while Instant::now() < until {
        let id = format!("{worker}-{done}");
        let put = client.put("c", vec![picture_image(&id, picture.clone())]).await;
        let put = put.with_context(|| format!("the put of {id} failed"))?;
        ensure!(put.results.iter().all(|r| r.error.as_ref().is_none_or(|e| e.code == 0)), "{put:?}");
        let found = client.search("c", Target::Picture(picture.clone()), 1).await.context("a search failed")?;
        ensure!(!found.hits.is_empty(), "{found:?}");
        done += 1;
    }
    Ok(done)
}

/// There is one node alone, so that no call can go elsewhere, and some are always under way when a connection ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_s_connections_grow_old_without_a_failed_call() -> Result<()> {
    let options = ClusterOptions::single("renewal_calls").secured().shard_flags(&["--max-connection-age-seconds", "1"]);
    let cluster = Cluster::start(options).await?;
    let client = cluster.client()?;
    client.create("c", None).await?;
    client.store("c", vec![picture_image("a", png(&draw(1, 64, 64))?)], PATIENCE).await?;
    let until = Instant::now() + Duration::from_secs(8);
    let workers = (0..6).map(|worker| calls(client.clone(), worker, until));
    let done: usize = futures::future::try_join_all(workers).await?.into_iter().sum();
    note!("{done} puts and {done} searches over connections of a second");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_and_their_authority_are_exchanged_and_only_a_thief_is_refused() -> Result<()> {
    let options = ClusterOptions::named("renewal").secured().flags(&["--max-connection-age-seconds", AGE]);
    let cluster = Cluster::start(options).await?;
    let (client, secured) = (cluster.client()?, cluster.secured()?);
    client.create("c", Some(2)).await?;
    client.store("c", vec![vector_image("a", vec![1.0, 0.0])], PATIENCE).await?;
    let pids = || (0..cluster.nodes()).map(|n| Ok(cluster.shard_process(n)?.pid())).collect::<Result<Vec<_>>>();
    let before = pids()?;

    let stop = Arc::new(AtomicBool::new(false));
    let endpoint = format!("https://{}", cluster.address()?);
    let omma = Omma::builder(endpoint).ca(secured.file("ca.pem")).api_key(secured.key()).connect().await?;
    let working = work(omma.clone(), stop.clone());
    let begin = Instant::now();
    stream(&omma).await?;
    note!("a stream of {:.1?} over connections of {AGE} s", begin.elapsed());

    // Open before the exchange, and used all the time.
    let thief = Secured::peer_channel_with(&secured.stolen("shard")?, cluster.shard_address(0)?)?;
    let mut thief = MetadataServiceClient::new(thief);
    thief.get_metadata(GetMetadataRequest::default()).await.context("the certificate is good as yet")?;
    exchange(secured).await?;
    let begin = Instant::now();
    while thief.get_metadata(GetMetadataRequest::default()).await.is_ok() {
        ensure!(begin.elapsed() < PATIENCE, "a stolen certificate outlives its authority");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.store(true, Ordering::Relaxed);
    let (done, slowest) = working.await??;
    note!(
        "{done} writes and {done} searches during the exchange, none of them failed; the slowest two took {slowest:.2?}"
    );
    ensure!(done > 100, "only {done} writes and searches");

    // All of it without a restart, and under the new certificates alone.
    ensure!(pids()? == before, "a node was started anew");
    let status = cluster.wait_converged(PATIENCE).await?;
    ensure!(status.nodes.iter().all(|n| n.reachable), "{status:?}");
    let log = cluster.shard_process(0)?.log()?;
    ensure!(log.matches("the peer certificate loaded anew").count() >= 2, "{log}");
    ensure!(client.get("c", "a").await?.is_some() && client.count("c").await? == 1 + STREAMED + done as u64, "lost");
    Ok(())
}
