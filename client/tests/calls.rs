//! The unary calls against a server in this process.

// Helpers of tests fail by panicking, as tests do.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use omma_client::proto::{Consistency, PutEffect, VectorSpace};
use omma_client::{Omma, ReadOptions, SearchOptions, Session, image_from_embedding, image_from_picture, query};
use omma_common::error::Reason;
use support::{DIMENSION, FakeServer, Faults};

async fn start(faults: Faults) -> (FakeServer, Omma) {
    let server = FakeServer::start(faults).await;
    let omma = Omma::connect(server.endpoint()).await.unwrap();
    (server, omma)
}

#[tokio::test]
async fn images_go_in_and_come_out() {
    let (_server, omma) = start(Faults::default()).await;
    omma.create_collection("photos", None).await.unwrap();
    let pictures = [("a", "aaaaaaaa"), ("b", "aaaabbbb"), ("z", "~~~~~~~~")];
    let new = pictures.map(|(id, bytes)| image_from_picture(id, bytes.as_bytes().to_vec())).to_vec();
    let outcomes = omma.put_images("photos", new.clone()).await.unwrap();
    assert!(outcomes.iter().all(|o| matches!(o.result, Ok(PutEffect::Created))));
    let again = omma.put_images("photos", new).await.unwrap();
    assert!(again.iter().all(|o| matches!(o.result, Ok(PutEffect::Unchanged))));

    let answer =
        omma.search("photos", query::picture("aaaaaaaa".as_bytes(), 2), &SearchOptions::default()).await.unwrap();
    assert_eq!(answer.hits.iter().map(|h| h.id.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    let near = omma.search("photos", query::stored("a", 1), &SearchOptions::default()).await.unwrap();
    assert_eq!(near.hits[0].id, "b");

    let options = ReadOptions { include_embedding: true, ..ReadOptions::default() };
    let image = omma.get_image("photos", "a", &options).await.unwrap();
    assert_eq!(image.content_digest.len(), 32);
    assert_eq!(image.embedding.unwrap().values.len(), DIMENSION);
    let missing = omma.get_image("photos", "none", &options).await.unwrap_err();
    assert_eq!(missing.reason(), Some(Reason::ImageNotFound));
    let some = omma.batch_get_images("photos", vec!["z".into(), "none".into(), "a".into()], &options).await.unwrap();
    assert_eq!(some.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["z", "a"]);

    assert_eq!(omma.delete_images("photos", vec!["a".into(), "none".into()]).await.unwrap(), 1);
    assert_eq!(omma.get_collection("photos").await.unwrap().image_count, 2);
}

#[tokio::test]
async fn all_pages_are_listed() {
    let (_server, omma) = start(Faults::default()).await;
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        let space = VectorSpace { id: "mine".into(), dimension: 3 };
        omma.create_collection(name, Some(space)).await.unwrap();
    }
    let listed = omma.list_collections().await.unwrap();
    assert_eq!(listed.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), names);
    let taken = omma.create_collection("a", None).await.unwrap_err();
    assert_eq!(taken.reason(), Some(Reason::CollectionExists));
    omma.delete_collection("a").await.unwrap();
    assert_eq!(omma.list_collections().await.unwrap().len(), 4);
}

#[tokio::test]
async fn what_the_server_calls_unavailable_is_tried_again_within_the_bound() {
    let (server, omma) = start(Faults { unavailable_calls: 3, ..Faults::default() }).await;
    omma.create_collection("c", None).await.unwrap();
    assert_eq!(server.state.lock().faults.unavailable_calls, 0);

    server.state.lock().faults.unavailable_calls = 1000;
    let impatient = Omma::builder(server.endpoint()).retries(2).connect().await.unwrap();
    let error = impatient.search("c", query::stored("x", 1), &SearchOptions::default()).await.unwrap_err();
    assert_eq!(error.reason(), Some(Reason::GroupUnavailable));
    assert_eq!(server.state.lock().faults.unavailable_calls, 997);

    let once = omma.delete_collection("c").await.unwrap_err();
    assert_eq!(once.reason(), Some(Reason::GroupUnavailable));
    assert_eq!(server.state.lock().faults.unavailable_calls, 996, "a write without a request id is never repeated");
}

#[tokio::test]
async fn the_deadline_travels_to_the_server() {
    let (server, omma) = start(Faults::default()).await;
    omma.create_collection("c", None).await.unwrap();
    let quick = omma.with_timeout(Duration::from_secs(2));
    quick.search("c", query::picture("abc".as_bytes(), 1), &SearchOptions::default()).await.unwrap();
    let sent = server.state.lock().last_timeout.clone().unwrap();
    let micros: u64 = sent.trim_end_matches('u').parse().unwrap_or_else(|_| panic!("{sent}"));
    assert!((1_000_000..=2_000_000).contains(&micros), "{sent}");
}

#[tokio::test]
async fn queries_of_a_batch_fail_alone() {
    let (_server, omma) = start(Faults::default()).await;
    omma.create_collection("c", None).await.unwrap();
    omma.put_images("c", vec![image_from_embedding("e", vec![1.0; DIMENSION])]).await.unwrap();
    let queries = vec![query::embedding(vec![2.0; DIMENSION], 1), query::embedding(vec![0.0; DIMENSION], 1)];
    let answers = omma.batch_search("c", queries, &SearchOptions::default()).await.unwrap();
    let hits = &answers[0].as_ref().unwrap().hits;
    assert!((hits[0].score - 1.0).abs() < 1e-5);
    assert_eq!(answers[1].as_ref().unwrap_err().reason(), Some(Reason::InvalidEmbedding));
}

#[tokio::test]
async fn a_session_remembers_writes() {
    let (_server, omma) = start(Faults::default()).await;
    omma.create_collection("c", None).await.unwrap();
    let session = Session::new();
    let mine = omma.with_session(session.clone());
    mine.put_images("c", vec![image_from_embedding("e", vec![1.0; DIMENSION])]).await.unwrap();
    assert_eq!(session.tokens().len(), 1);
    let options = ReadOptions { consistency: Consistency::Session, ..ReadOptions::default() };
    assert!(mine.get_image("c", "e", &options).await.is_ok());
    assert!(mine.status().await.unwrap().groups.len() == 4);
}
