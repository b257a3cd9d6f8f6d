//! Messages that are too large, cut off, or none; and streams whose clients vanish.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use omma_common::error::Reason;
use omma_common::limits::{DEFAULT_MAX_PICTURE_BYTES, MAX_MESSAGE_BYTES};
use omma_integration_tests::client::{Client, by_vector, ids, picture_image, request_id, vector_image};
use omma_integration_tests::refusal::Refusal;
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::{AttributeValue, BatchSearchRequest, IngestImagesRequest, NewImage, Query, SearchRequest};
use tokio_stream::StreamExt;
use tonic::Code;

use super::{PATIENCE, cluster};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused() -> Result<()> {
    let client = cluster().await?.client()?;
    client.create("large", None).await?;
    let piece = Bytes::from(vec![7; DEFAULT_MAX_PICTURE_BYTES - 1]);
    let images: Vec<_> = (0..3).map(|i| picture_image(&format!("p{i}"), piece.clone())).collect();
    ensure!(images.len() * piece.len() > MAX_MESSAGE_BYTES);
    let refusal = Refusal::of_call(client.put("large", images).await)?;
    refusal.is(Reason::MessageTooLarge, "")?;
    ensure!(client.count("large").await? == 0);
    Ok(())
}

/// A stream whose client vanishes: what was acknowledged is there, everything else wholly or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stops_half_way_leaves_nothing_half_written() -> Result<()> {
    let client = cluster().await?.client()?;
    client.create("half-way", Some(64)).await?;
    let vector = |i: usize| (0..64).map(|j| if i == j { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let requests = (0..64).map(move |i| IngestImagesRequest {
        collection: "half-way".to_owned(),
        sequence: i as u64,
        image: Some(vector_image(&format!("i{i}"), vector(i))),
        request_id: request_id(),
    });
    // Never ends by itself.
    let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut acknowledged = Vec::new();
    {
        let mut answers = client.images().ingest_images(requests).await?.into_inner();
        while acknowledged.len() < 20 {
            let answer = answers.next().await.context("the stream ended")??;
            acknowledged.push(answer.result.context("result")?.id);
        }
    }
    // What was on its way when the client vanished may still arrive.
    let mut count = client.count("half-way").await?;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        match client.count("half-way").await? {
            same if same == count => break,
            more => count = more,
        }
    }
    let mut there = 0;
    for i in 0..64 {
        let id = format!("i{i}");
        let stored = client.get("half-way", &id).await?;
        ensure!(stored.is_some() || !acknowledged.contains(&id), "{id} was acknowledged and is not there");
        let hits = client.search("half-way", by_vector(&vector(i)), 1).await?;
        let found = ids(&hits).first() == Some(&id.as_str());
        ensure!(found == stored.is_some(), "{id} is half there: {stored:?} {hits:?}");
        there += u64::from(found);
    }
    ensure!(count == there, "{count} images counted, {there} found");
    Ok(())
}

/// Bytes that are no messages: a frame that is cut off, and one that is no protobuf.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_no_messages_end_their_call_alone() -> Result<()> {
    use prost::Message;
    let client = cluster().await?.client()?;
    client.create("frames", Some(2)).await?;
    let whole = IngestImagesRequest {
        collection: "frames".to_owned(),
        sequence: 1,
        image: Some(vector_image("whole", vec![1.0, 0.0])),
        request_id: String::new(),
    };
    let whole = frame(&whole.encode_to_vec(), None);
    let cut = frame(&[1; 100], Some(1000));
    let noise = frame(&[0xff; 100], None);
    for (what, tail) in [("cut off", cut), ("noise", noise)] {
        let bytes = [whole.clone(), tail].concat();
        let code = raw_call(&client, "/omma.v1.ImageService/IngestImages", bytes).await.context(what)?;
        ensure!(code != Code::Ok, "{what}: {code:?}");
        ensure!(client.get("frames", "whole").await?.is_some(), "{what}: the image before it is lost");
    }
    ensure!(client.count("frames").await? == 1);
    Ok(())
}

/// What would not fit into a message is told as that, and not as the fault of groups that a retry might find well.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_is_told_as_such() -> Result<()> {
    let client = cluster().await?.client()?;
    client.create("large-answers", Some(2)).await?;
    let text = AttributeValue { kind: Some(Kind::StringValue("x".repeat(60_000))) };
    let images = (0..700).map(|i| {
        let (sine, cosine) = (std::f32::consts::TAU * i as f32 / 700.0).sin_cos();
        NewImage {
            attributes: [("text".to_owned(), text.clone())].into(),
            ..vector_image(&format!("l{i}"), vec![cosine, sine])
        }
    });
    for batch in images.collect::<Vec<_>>().chunks(200) {
        client.store("large-answers", batch.to_vec(), PATIENCE).await?;
    }
    let query = |k| Query { target: Some(by_vector(&[1.0, 1.0])), k, min_score: None, filter: None };
    let search = |k, include_attributes| SearchRequest {
        collection: "large-answers".to_owned(),
        query: Some(query(k)),
        include_attributes,
        ..Default::default()
    };
    let batch = BatchSearchRequest {
        collection: "large-answers".to_owned(),
        queries: vec![query(700); 4],
        include_attributes: true,
        ..Default::default()
    };
    // One that the coordinator puts together, and one that no group could send.
    let refusals = [
        client.searches().search(search(700, true)).await.err().context("a search of 42 MB")?,
        client.searches().batch_search(batch).await.err().context("a batch of 168 MB")?,
    ];
    for status in refusals {
        let refusal = Refusal::of(&status)?;
        ensure!(refusal.reason == Reason::MessageTooLarge.name() && !refusal.retry, "{refusal:?}");
    }
    ensure!(client.searches().search(search(700, false)).await?.into_inner().hits.len() > 600);
    ensure!(client.searches().search(search(100, true)).await?.into_inner().hits.len() == 100);
    Ok(())
}

/// A gRPC frame; it may lie about its length.
fn frame(message: &[u8], length: Option<u32>) -> Vec<u8> {
    let length = length.unwrap_or(message.len() as u32);
    [&[0], length.to_be_bytes().as_slice(), message].concat()
}

/// Sends `body` as it is; returns the `grpc-status`.
async fn raw_call(client: &Client, path: &str, body: Vec<u8>) -> Result<Code> {
    use http_body_util::{BodyExt, Full};
    use tower::{Service, ServiceExt};
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::new(Bytes::from(body))))?;
    let mut channel = client.channel();
    let answer = channel.ready().await?.call(request).await?;
    let in_headers = answer.headers().get("grpc-status").cloned();
    let collected = answer.into_body().collect().await?;
    let status = in_headers.or_else(|| collected.trailers().and_then(|t| t.get("grpc-status").cloned()));
    Ok(Code::from_bytes(status.context("no grpc-status")?.as_bytes()))
}
