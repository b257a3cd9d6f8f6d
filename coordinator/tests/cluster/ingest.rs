//! Streams of images.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use omma_common::error::{Reason, reason_of};
use omma_proto::v1 as pb;
use omma_proto::v1::new_image::Content;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use crate::clients::{Clients, picture, ready, vector};
use crate::support::Cluster;

fn ingest(collection: &str, sequence: u64, image: pb::NewImage) -> pb::IngestImagesRequest {
    pb::IngestImagesRequest { collection: collection.into(), sequence, image: Some(image), request_id: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_never_ends_the_stream_and_a_half_closed_one_is_answered_whole() {
    let (cluster, mut clients) = ready().await;
    let mut requests = vec![ingest("c", 0, vector("v0", [1.0; 4]))];
    requests.extend((1..100).map(|i| match i % 10 {
        3 => ingest("", i, vector("", [1.0; 4])),
        5 => ingest("", i, picture("broken", b"x")),
        7 => ingest("", i, vector("nan", [f32::NAN; 4])),
        9 => pb::IngestImagesRequest { sequence: i, ..Default::default() },
        _ => ingest("", i, vector(&format!("v{i}"), [1.0, i as f32, 0.0, 0.0])),
    }));
    // The client is done at once; the answers still come.
    let mut answers = clients.images.ingest_images(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut seen = BTreeSet::new();
    while let Some(answer) = answers.message().await.unwrap() {
        let bad = matches!(answer.sequence % 10, 3 | 5 | 7 | 9);
        let result = answer.result.unwrap();
        let code = result.error.as_ref().map_or(0, |e| e.code);
        assert_eq!(code, if bad { Code::InvalidArgument as i32 } else { 0 }, "{} {result:?}", answer.sequence);
        assert_eq!(answer.session_token.is_some(), code == 0 || answer.sequence % 10 == 5);
        assert!(seen.insert(answer.sequence), "answered twice");
    }
    assert_eq!(seen, (0..100).collect());
    assert_eq!(cluster.state.lock().records.values().map(|r| r.len()).sum::<usize>(), 60);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_the_window_is_unanswered() {
    let cluster = Cluster::start_with(|config| config.limits.ingest_window = 4).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    for script in &cluster.scripts {
        *script.delay.lock() = Duration::from_millis(30);
    }
    let requests: Vec<_> = (0..40).map(|i| ingest("c", i, vector(&cluster.id_in(1, i as usize), [1.0; 4]))).collect();
    let mut answers = clients.images.ingest_images(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut count = 0;
    while answers.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 40);
    let most = cluster.script(1).most_in_flight.load(Ordering::SeqCst);
    assert!((2..=4).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_of_one_id_are_written_in_their_order() {
    let (cluster, mut clients) = ready().await;
    let (one, other) = (cluster.id_in(1, 0), cluster.id_in(2, 0));
    for script in &cluster.scripts {
        *script.delay.lock() = Duration::from_millis(20);
    }
    let mut requests: Vec<_> = (0..10).map(|i| ingest("c", i, vector(&one, [1.0, i as f32, 0.0, 0.0]))).collect();
    requests.push(ingest("c", 10, vector(&other, [1.0; 4])));
    // What is wrong with one does not hold up the next.
    requests.insert(5, ingest("c", 11, vector(&one, [f32::NAN; 4])));
    let mut answers = clients.images.ingest_images(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut order = vec![];
    while let Some(answer) = answers.message().await.unwrap() {
        assert_eq!(answer.result.unwrap().error.is_some(), answer.sequence == 11);
        order.push(answer.sequence);
    }
    assert_eq!(order.iter().copied().filter(|i| *i < 10).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    assert_ne!(order.last(), Some(&10), "other ids do not wait");
    assert_eq!(cluster.script(1).most_in_flight.load(Ordering::SeqCst), 1);
    let records = &cluster.state.lock().records[&1];
    assert_eq!(records.values().next().unwrap().0[1] / records.values().next().unwrap().0[0], 9.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_images_fill_the_window_by_their_bytes() {
    let cluster = Cluster::start_with(|config| config.limits.ingest_bytes = 250 << 10).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    *cluster.script(1).delay.lock() = Duration::from_millis(30);
    let large = Bytes::from(vec![200; 100 << 10]);
    let requests: Vec<_> = (0..20)
        .map(|i| {
            let content = Some(Content::Picture(large.clone()));
            ingest("c", i, pb::NewImage { id: cluster.id_in(1, i as usize), content, ..Default::default() })
        })
        .collect();
    let mut answers = clients.images.ingest_images(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(answer.result.unwrap().error.is_none());
        count += 1;
    }
    assert_eq!(count, 20);
    let most = cluster.script(1).most_in_flight.load(Ordering::SeqCst);
    assert!((2..=3).contains(&most), "{most} at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_collection_or_with_an_unknown_one_ends() {
    let (_cluster, mut clients) = ready().await;
    for (name, code) in [("", Code::InvalidArgument), ("Bad Name", Code::InvalidArgument), ("nosuch", Code::NotFound)] {
        // The client keeps its half open: the server ends the stream.
        let (send, requests) = mpsc::channel(4);
        send.send(ingest(name, 1, vector("a", [1.0; 4]))).await.unwrap();
        let mut answers = clients.images.ingest_images(ReceiverStream::new(requests)).await.unwrap().into_inner();
        let error = loop {
            match answers.message().await {
                Ok(Some(answer)) => assert!(answer.result.unwrap().error.is_some()),
                Ok(None) => panic!("ended without an error: {name:?}"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.code(), code, "{name:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_leaves_nothing_behind() {
    let (cluster, mut clients) = ready().await;
    *cluster.script(1).delay.lock() = Duration::from_secs(3);
    let (send, requests) = mpsc::channel(64);
    for i in 0..10 {
        send.send(ingest("c", i, vector(&cluster.id_in(1, i as usize), [1.0; 4]))).await.unwrap();
    }
    let answers = clients.images.ingest_images(ReceiverStream::new(requests)).await.unwrap();
    while cluster.script(1).puts.load(Ordering::SeqCst) < 10 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop((answers, send));
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(cluster.state.lock().request_ids.is_empty(), "the calls went on though nobody waited for them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_answers_what_was_taken() {
    let (mut cluster, mut clients) = ready().await;
    *cluster.script(1).delay.lock() = Duration::from_millis(500);
    let (send, requests) = mpsc::channel(64);
    for i in 0..5 {
        send.send(ingest("c", i, vector(&cluster.id_in(1, i as usize), [1.0; 4]))).await.unwrap();
    }
    let mut answers = clients.images.ingest_images(ReceiverStream::new(requests)).await.unwrap().into_inner();
    while cluster.script(1).puts.load(Ordering::SeqCst) < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    cluster.trigger.take().unwrap().fire();
    for _ in 0..5 {
        assert!(answers.message().await.unwrap().unwrap().result.unwrap().error.is_none());
    }
    assert_eq!(reason_of(&answers.message().await.unwrap_err()), Some(Reason::ShuttingDown));
    drop((send, answers, clients));
    tokio::time::timeout(Duration::from_secs(12), &mut cluster.coordinator).await.unwrap().unwrap().unwrap();
}
