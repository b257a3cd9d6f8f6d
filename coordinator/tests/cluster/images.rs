//! Images are put, found, got and deleted; what is wrong with a request is told.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use omma_common::error::{Reason, reason_of};
use omma_proto::v1 as pb;
use omma_proto::v1::new_image::Content;
use omma_proto::v1::query::Target;
use tonic::Code;

use crate::clients::{direction, ids, picture, ready, vector};
use crate::support::group_of;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_is_found_got_and_deleted() {
    let (cluster, mut clients) = ready().await;
    let mut images: Vec<_> = (0..40u8).map(|i| vector(&format!("v{i}"), [1.0, f32::from(i), 0.0, 0.0])).collect();
    images.push(picture("pic", &[150, 100, 100, 200]));
    images[3].attributes.insert(
        "colour".into(),
        pb::AttributeValue { kind: Some(pb::attribute_value::Kind::StringValue("red".into())) },
    );
    let put = clients.put(images).await.unwrap();
    assert_eq!(put.results.len(), 41);
    assert!(put.results.iter().enumerate().all(|(i, r)| i == 40 || r.id == format!("v{i}")));
    assert!(put.results.iter().all(|r| r.error.is_none() && r.effect == pb::PutEffect::Created as i32));
    let groups: BTreeSet<u32> = put.results.iter().map(|r| group_of(&r.id)).collect();
    assert_eq!(groups.len(), 3, "the test is about several groups");

    let found = clients.find(direction([1.0, 3.0, 0.0, 0.0]), |r| r.include_attributes = true).await.unwrap();
    assert_eq!(ids(&found)[0], "v3");
    assert!(found.hits[0].attributes.contains_key("colour"));
    assert!(found.hits.windows(2).all(|h| h[0].score >= h[1].score));
    let coverage = found.coverage.unwrap();
    assert_eq!((coverage.groups_asked, coverage.groups_answered), (3, 3));

    // By picture: encoded once, itself first.
    let found = clients.find(Target::Picture(Bytes::from_static(&[150, 100, 100, 200])), |_| {}).await.unwrap();
    assert_eq!(ids(&found)[0], "pic");
    assert_eq!(found.timings.unwrap().inference.unwrap().nanos, 7000);
    assert_eq!(cluster.scripts.iter().map(|s| s.encodes.load(Ordering::SeqCst)).sum::<usize>(), 1);

    // By stored id: itself left out. With a least score: fewer.
    let found = clients.find(Target::ImageId("v3".into()), |_| {}).await.unwrap();
    assert_eq!(found.hits.len(), 3);
    assert!(!ids(&found).contains(&"v3"));
    let strict = |r: &mut pb::SearchRequest| r.query.as_mut().unwrap().min_score = Some(0.99999);
    let found = clients.find(direction([1.0, 3.0, 0.0, 0.0]), strict).await.unwrap();
    assert_eq!(ids(&found), ["v3"]);

    // A session read carries the put's index (the double checks it).
    let token = put.session_token.unwrap();
    let session = |r: &mut pb::SearchRequest| {
        r.consistency = pb::Consistency::Session as i32;
        r.session_tokens = vec![token];
    };
    assert_eq!(ids(&clients.find(direction([1.0, 3.0, 0.0, 0.0]), session).await.unwrap())[0], "v3");

    let get = |id: &str| pb::GetImageRequest {
        collection: "c".into(),
        id: id.into(),
        include_embedding: true,
        ..Default::default()
    };
    let got = clients.images.get_image(get("v0")).await.unwrap().into_inner().image.unwrap();
    assert_eq!(got.embedding.unwrap().values[0], 1.0);
    let batch = pb::BatchGetImagesRequest {
        collection: "c".into(),
        ids: vec!["v5".into(), "no".into(), "v1".into()],
        ..Default::default()
    };
    let got = clients.images.batch_get_images(batch).await.unwrap().into_inner().images;
    assert_eq!(got.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["v5", "v1"]);

    let delete = pb::DeleteImagesRequest {
        collection: "c".into(),
        ids: vec!["v3".into(), "no".into(), "v4".into(), "v3".into()],
        ..Default::default()
    };
    assert_eq!(clients.images.delete_images(delete).await.unwrap().into_inner().deleted_count, 2);
    let error = clients.images.get_image(get("v3")).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::ImageNotFound));
    let get = pb::GetCollectionRequest { name: "c".into() };
    assert_eq!(clients.collections.get_collection(get).await.unwrap().into_inner().collection.unwrap().image_count, 39);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_answers_each_query_by_itself() {
    let (_cluster, mut clients) = ready().await;
    clients.put(vec![vector("a", [1.0, 0.0, 0.0, 0.0]), vector("b", [0.0, 1.0, 0.0, 0.0])]).await.unwrap();
    let query = |target| pb::Query { target: Some(target), k: 1, ..Default::default() };
    let queries = vec![
        query(direction([1.0, 0.1, 0.0, 0.0])),
        query(direction([0.0; 4])),
        query(Target::ImageId("nobody".into())),
        query(direction([0.1, 1.0, 0.0, 0.0])),
        query(Target::Picture(Bytes::from_static(b"x"))),
    ];
    let request = pb::BatchSearchRequest { collection: "c".into(), queries, ..Default::default() };
    let results = clients.search.batch_search(request).await.unwrap().into_inner().results;
    let codes: Vec<_> = results.iter().map(|r| r.error.as_ref().map_or(0, |e| e.code)).collect();
    assert_eq!(codes, [0, Code::InvalidArgument as i32, Code::NotFound as i32, 0, Code::InvalidArgument as i32]);
    assert!(results[1].error.as_ref().unwrap().message.contains("queries[1].embedding"));
    let field = |i: usize| {
        let details = tonic_types::RpcStatusExt::get_details_bad_request(results[i].error.as_ref().unwrap());
        details.unwrap().field_violations[0].field.clone()
    };
    assert_eq!((field(1), field(4)), ("queries[1].embedding".into(), "queries[4].picture".into()));
    assert_eq!(ids(results[0].response.as_ref().unwrap()), ["a"]);
    assert_eq!(ids(results[3].response.as_ref().unwrap()), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_told_and_writes_nothing() {
    let (cluster, mut clients) = ready().await;
    let bad = |images| (images, Reason::InvalidArgument);
    let ok = || vector("a", [1.0; 4]);
    let cases = [
        bad(vec![]),
        bad(vec![ok(), ok()]),
        bad(vec![ok(), vector("", [1.0; 4])]),
        bad(vec![vector("a\n", [1.0; 4])]),
        bad(vec![pb::NewImage { id: "a".into(), ..Default::default() }]),
        (vec![ok(), vector("b", [f32::NAN; 4])], Reason::InvalidEmbedding),
        (vec![vector("b", [0.0; 4])], Reason::InvalidEmbedding),
        (vec![picture("b", &[])], Reason::InvalidPicture),
    ];
    for (images, reason) in cases {
        let error = clients.put(images.clone()).await.unwrap_err();
        assert_eq!((error.code(), reason_of(&error)), (Code::InvalidArgument, Some(reason)), "{images:?}");
    }
    assert!(cluster.state.lock().request_ids.is_empty());

    let error = clients.find(direction([1.0; 4]), |r| r.query.as_mut().unwrap().k = 1001).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = clients.find(direction([1.0; 4]), |r| r.collection = "nosuch".into()).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::CollectionNotFound));
    let error = clients.find(direction([1.0; 4]), |r| r.collection = "No such".into()).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = clients.find(direction([1.0; 4]), |r| r.query = None).await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);

    // Larger than a message may be.
    let huge = pb::NewImage { content: Some(Content::Picture(Bytes::from(vec![1; 33 << 20]))), ..ok() };
    let error = clients.put(vec![huge]).await.unwrap_err();
    assert!(matches!(error.code(), Code::OutOfRange | Code::ResourceExhausted), "{error}");
    // Larger than a picture may be.
    let large = pb::NewImage { content: Some(Content::Picture(Bytes::from(vec![1; 17 << 20]))), ..ok() };
    assert_eq!(reason_of(&clients.put(vec![large]).await.unwrap_err()), Some(Reason::PictureTooLarge));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_picture_needs_the_encoders_space() {
    let (_cluster, mut clients) = ready().await;
    let space = pb::VectorSpace { id: "mine".into(), dimension: 4 };
    let create = pb::CreateCollectionRequest { name: "own".into(), vector_space: Some(space), ..Default::default() };
    clients.collections.create_collection(create).await.unwrap();
    let request = pb::PutImagesRequest {
        collection: "own".into(),
        images: vec![picture("a", &[1, 2, 3, 4])],
        ..Default::default()
    };
    let error = clients.images.put_images(request).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::VectorSpaceMismatch));
    let error = clients
        .find(Target::Picture(Bytes::from_static(&[1, 2, 3, 4])), |r| r.collection = "own".into())
        .await
        .unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::VectorSpaceMismatch));
    let request =
        pb::PutImagesRequest { collection: "own".into(), images: vec![vector("a", [1.0; 4])], ..Default::default() };
    clients.images.put_images(request).await.unwrap();
}
