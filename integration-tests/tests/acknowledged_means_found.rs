//! A write that is acknowledged is found by every search that starts afterwards: no indexing lag.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_integration_tests::client::{Client, by_vector, ids, request_id, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::note;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::v1::IngestImagesRequest;
use rand::Rng;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;

const COLLECTION: &str = "acknowledged";
const DIMENSION: usize = 64;
const WRITERS: u64 = 8;
const PER_WRITER: usize = 400;
/// Unanswered images of one stream.
const WINDOW: usize = 16;
const STALL: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_image_is_at_rank_one_of_a_search_that_starts_then() -> Result<()> {
    let seed = seed("acknowledged_means_found");
    let cluster = Cluster::start(ClusterOptions::named("acknowledged_means_found")).await?;
    cluster.client()?.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let begin = Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(stream_and_search(cluster.client()?, seed, writer));
    }
    let mut checks = 0;
    while let Some(writer) = writers.join_next().await {
        checks += writer.context("a writer panicked")?.with_context(|| format!("seed {seed}"))?;
    }
    note!("{checks} searches, each found its image at rank 1, in {:.1?}", begin.elapsed());
    let expected = WRITERS * PER_WRITER as u64;
    ensure!(checks >= expected, "{checks} checks");
    let status = cluster.wait_converged(STALL).await?;
    ensure!(omma_integration_tests::convergence::image_count(&status) == expected);
    Ok(())
}

/// Streams vectors in; searches for each as soon as it is acknowledged, and for an older one now and then.
async fn stream_and_search(client: Client, seed: u64, writer: u64) -> Result<u64> {
    let mut rng = generator(seed, writer);
    let vectors: Vec<_> = (0..PER_WRITER).map(|_| unit_vector(&mut rng, DIMENSION)).collect();
    let (sender, receiver) = mpsc::channel(WINDOW);
    let sending = tokio::spawn(send(sender, writer, vectors.clone()));
    let mut answers = client.images().ingest_images(ReceiverStream::new(receiver)).await?.into_inner();
    let (mut checks, mut acknowledged) = (0, Vec::new());
    while let Some(answer) = timeout(STALL, answers.next()).await.context("the stream stalled")? {
        let answer = answer?;
        let result = answer.result.context("an answer without a result")?;
        ensure!(result.error.as_ref().is_none_or(|e| e.code == 0), "refused: {result:?}");
        let this = usize::try_from(answer.sequence)?;
        acknowledged.push(this);
        must_be_first(&client, writer, this, &vectors).await?;
        checks += 1;
        if acknowledged.len() % 4 == 0 {
            let older = acknowledged[rng.random_range(0..acknowledged.len())];
            must_be_first(&client, writer, older, &vectors).await?;
            checks += 1;
        }
    }
    sending.await?;
    ensure!(acknowledged.len() == PER_WRITER, "{} of {PER_WRITER} answered", acknowledged.len());
    Ok(checks)
}

async fn send(sender: mpsc::Sender<IngestImagesRequest>, writer: u64, vectors: Vec<Vec<f32>>) {
    for (i, vector) in vectors.into_iter().enumerate() {
        let request = IngestImagesRequest {
            collection: COLLECTION.to_owned(),
            sequence: i as u64,
            image: Some(vector_image(&format!("w{writer}-{i}"), vector)),
            request_id: request_id(),
        };
        if sender.send(request).await.is_err() {
            return;
        }
    }
}

async fn must_be_first(client: &Client, writer: u64, i: usize, vectors: &[Vec<f32>]) -> Result<()> {
    let found = client.search(COLLECTION, by_vector(&vectors[i]), 1).await?;
    ensure!(ids(&found) == [format!("w{writer}-{i}").as_str()], "w{writer}-{i} is acknowledged, but found: {found:?}");
    ensure!(found.hits[0].score > 0.995, "{found:?}");
    Ok(())
}
