//! Ingest against a server in this process that misbehaves on purpose.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::StreamExt;
use omma_client::proto::{NewImage, PutEffect};
use omma_client::{IngestOptions, Ingested, Omma, image_from_picture};
use omma_common::error::Reason;
use support::{FakeServer, Faults};

fn images(count: u32) -> Vec<NewImage> {
    (0..count).map(|n| image_from_picture(format!("image {n}"), format!("picture number {n}").into_bytes())).collect()
}

async fn ingest(omma: &Omma, images: Vec<NewImage>, options: IngestOptions) -> (Vec<Ingested>, Option<String>) {
    let stream = omma.ingest("c", futures::stream::iter(images), options);
    let items: Vec<_> = stream.collect().await;
    let mut error = None;
    let mut outcomes = Vec::new();
    for item in items {
        match item {
            Ok(outcome) => outcomes.push(outcome),
            Err(e) => error = Some(e.to_string()),
        }
    }
    (outcomes, error)
}

async fn start(faults: Faults) -> (FakeServer, Omma) {
    let server = FakeServer::start(faults).await;
    let omma = Omma::connect(server.endpoint()).await.unwrap();
    omma.create_collection("c", None).await.unwrap();
    (server, omma)
}

#[tokio::test]
async fn every_image_has_one_outcome() {
    let (server, omma) = start(Faults::default()).await;
    let mut all = images(300);
    all[7] = image_from_picture("image 7", b"broken".to_vec());
    let (outcomes, error) = ingest(&omma, all, IngestOptions::default()).await;
    assert_eq!((outcomes.len(), error), (300, None));
    let positions: BTreeSet<u64> = outcomes.iter().map(|o| o.position).collect();
    assert_eq!(positions, (0..300).collect());
    for outcome in outcomes {
        assert_eq!(outcome.id, format!("image {}", outcome.position));
        match outcome.position {
            7 => assert_eq!(outcome.result.unwrap_err().reason(), Some(Reason::InvalidPicture)),
            _ => assert_eq!(outcome.result.unwrap(), PutEffect::Created),
        }
    }
    assert_eq!(server.state.lock().store.count(), 299);
}

#[tokio::test]
async fn a_broken_stream_loses_nothing_and_keeps_request_ids() {
    let (server, omma) = start(Faults { break_stream_after: vec![5, 0, 17], ..Faults::default() }).await;
    let options = IngestOptions { window_images: 8, ..IngestOptions::default() };
    let (outcomes, error) = ingest(&omma, images(100), options).await;
    assert_eq!((outcomes.len(), error), (100, None));
    // Stored once, by the first try, though the answer of that one was lost: the same request id says so.
    assert!(outcomes.iter().all(|o| matches!(o.result, Ok(PutEffect::Created))));

    let state = server.state.lock();
    assert_eq!((state.store.count(), state.streams_opened), (100, 4));
    let mut ids: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (image, request) in &state.arrivals {
        ids.entry(image).or_default().insert(request);
    }
    assert!(state.arrivals.len() > 100, "something was sent twice");
    assert!(ids.values().all(|requests| requests.len() == 1), "each image has one request id");
    assert_eq!(ids.values().flatten().collect::<BTreeSet<_>>().len(), 100, "and no two images share one");
}

#[tokio::test]
async fn refused_images_are_tried_again() {
    let (server, omma) = start(Faults { overloaded: 2, ..Faults::default() }).await;
    let (outcomes, error) = ingest(&omma, images(20), IngestOptions::default()).await;
    assert_eq!((outcomes.len(), error), (20, None));
    assert!(outcomes.iter().all(|o| o.result.is_ok()));
    let state = server.state.lock();
    assert_eq!((state.arrivals.len(), state.streams_opened), (60, 1));
}

#[tokio::test]
async fn a_server_that_falls_silent_is_given_up_in_bounded_time() {
    let (_server, omma) = start(Faults { silent: true, ..Faults::default() }).await;
    let options = IngestOptions {
        window_images: 4,
        reconnects: 1,
        patience: Duration::from_millis(200),
        ..IngestOptions::default()
    };
    let work = ingest(&omma, images(10), options);
    let (outcomes, error) = tokio::time::timeout(Duration::from_secs(10), work).await.unwrap();
    assert!(error.unwrap().contains("unanswered"));
    assert_eq!(outcomes.len(), 4, "those that were taken in; the source was read no further");
    assert!(outcomes.iter().all(|o| o.result.is_err()));
}

#[tokio::test]
async fn an_unknown_collection_ends_the_ingest_at_once() {
    let server = FakeServer::start(Faults::default()).await;
    let omma = Omma::connect(server.endpoint()).await.unwrap();
    let (outcomes, error) = ingest(&omma, images(3), IngestOptions::default()).await;
    assert!(error.unwrap().contains("COLLECTION_NOT_FOUND"));
    assert!(outcomes.iter().all(|o| o.result.is_err()));
}

#[tokio::test]
async fn nothing_in_nothing_out() {
    let (server, omma) = start(Faults::default()).await;
    let (outcomes, error) = ingest(&omma, vec![], IngestOptions::default()).await;
    assert_eq!((outcomes.len(), error, server.state.lock().streams_opened), (0, None, 0));
}
