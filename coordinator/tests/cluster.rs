//! The coordinator over loopback gRPC, in front of doubles of shard nodes that misbehave as told.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::error::{Reason, reason_of};
use omma_proto::v1 as pb;
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::collection_service_client::CollectionServiceClient;
use omma_proto::v1::image_service_client::ImageServiceClient;
use omma_proto::v1::new_image::Content;
use omma_proto::v1::query::Target;
use omma_proto::v1::search_service_client::SearchServiceClient;
use support::{Cluster, group_of};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Clients of one coordinator.
struct Clients {
    collections: CollectionServiceClient<Channel>,
    images: ImageServiceClient<Channel>,
    search: SearchServiceClient<Channel>,
    cluster: ClusterServiceClient<Channel>,
    channel: Channel,
}

impl Clients {
    fn of(cluster: &Cluster) -> Self {
        let channel = Endpoint::from_shared(cluster.address.clone()).unwrap().connect_lazy();
        Self {
            collections: CollectionServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel.clone()).max_encoding_message_size(64 << 20),
            search: SearchServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel.clone()),
            channel,
        }
    }

    async fn create(&mut self, name: &str) -> pb::Collection {
        let request = pb::CreateCollectionRequest { name: name.into(), ..Default::default() };
        self.collections.create_collection(request).await.unwrap().into_inner().collection.unwrap()
    }

    async fn put(&mut self, images: Vec<pb::NewImage>) -> Result<pb::PutImagesResponse, Status> {
        let request = pb::PutImagesRequest { collection: "c".into(), images, ..Default::default() };
        Ok(self.images.put_images(request).await?.into_inner())
    }

    async fn find(
        &mut self,
        target: Target,
        change: impl FnOnce(&mut pb::SearchRequest),
    ) -> Result<pb::SearchResponse, Status> {
        let query = pb::Query { target: Some(target), k: 3, ..Default::default() };
        let mut request = pb::SearchRequest { collection: "c".into(), query: Some(query), ..Default::default() };
        change(&mut request);
        Ok(self.search.search(request).await?.into_inner())
    }
}

async fn ready() -> (Cluster, Clients) {
    let cluster = Cluster::start().await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    (cluster, clients)
}

fn vector(id: &str, values: [f32; 4]) -> pb::NewImage {
    let content = Some(Content::Embedding(pb::Embedding { values: values.to_vec() }));
    pb::NewImage { id: id.into(), content, ..Default::default() }
}

fn picture(id: &str, bytes: &'static [u8]) -> pb::NewImage {
    pb::NewImage { id: id.into(), content: Some(Content::Picture(Bytes::from_static(bytes))), ..Default::default() }
}

fn direction(values: [f32; 4]) -> Target {
    Target::Embedding(pb::Embedding { values: values.to_vec() })
}

fn ids(response: &pb::SearchResponse) -> Vec<&str> {
    response.hits.iter().map(|h| h.id.as_str()).collect()
}

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

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_with_the_same_request_id() {
    let (cluster, mut clients) = ready().await;
    let id = cluster.id_in(2, 0);
    cluster.script(2).lose_next_answer.store(true, Ordering::SeqCst);
    let put = clients.put(vec![vector(&id, [1.0; 4])]).await.unwrap();
    // Created, not replaced: the second try was answered as the first.
    assert_eq!(put.results[0].effect, pb::PutEffect::Created as i32);
    let tried = cluster.state.lock().request_ids.clone();
    assert_eq!(tried.len(), 2);
    assert_eq!(tried[0], tried[1]);
    assert!(!tried[0].1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_follow_a_new_leader() {
    let (cluster, mut clients) = ready().await;
    let id = cluster.id_in(2, 0);
    clients.put(vec![vector(&id, [1.0; 4])]).await.unwrap();
    // The coordinator still takes node 2 for the leader: it is pointed to node 3.
    cluster.elect(2, 3);
    clients.put(vec![vector(&id, [1.0; 4])]).await.unwrap();
    assert_eq!(cluster.script(3).puts.load(Ordering::SeqCst), 1);

    // The leader dies in the middle of a write, another is elected a moment later.
    *cluster.script(3).delay.lock() = Duration::from_secs(60);
    let write = {
        let mut clients = Clients::of(&cluster);
        let image = vector(&id, [0.5; 4]);
        tokio::spawn(async move { clients.put(vec![image]).await })
    };
    while cluster.script(3).in_flight.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    cluster.kill(3);
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.elect(2, 1);
    let put = write.await.unwrap().unwrap();
    assert!(put.results[0].error.is_none(), "{put:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_is_left_when_another_is_elected() {
    let (cluster, mut clients) = ready().await;
    let id = cluster.id_in(2, 0);
    *cluster.script(2).delay.lock() = Duration::from_secs(60);
    let image = vector(&id, [0.5; 4]);
    let begun = Instant::now();
    let write = tokio::spawn(async move { clients.put(vec![image]).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.elect(2, 1);
    assert!(write.await.unwrap().unwrap().results[0].error.is_none());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_a_leader_ends_at_the_deadline_with_a_typed_error() {
    let (cluster, mut clients) = ready().await;
    let (dead, alive) = (cluster.id_in(2, 0), cluster.id_in(1, 0));
    cluster.state.lock().dead_groups.push(2);
    let put = |images| {
        let mut request = Request::new(pb::PutImagesRequest { collection: "c".into(), images, ..Default::default() });
        request.set_timeout(Duration::from_millis(1500));
        request
    };
    let error = clients.images.put_images(put(vec![vector(&dead, [1.0; 4])])).await.unwrap_err();
    assert!(matches!(reason_of(&error), Some(Reason::GroupUnavailable)), "{error:?}");
    // Together with a group that works, each image has its own outcome.
    let both = put(vec![vector(&dead, [1.0; 4]), vector(&alive, [1.0; 4])]);
    let put = clients.images.put_images(both).await.unwrap().into_inner();
    assert_eq!(put.results[0].error.as_ref().unwrap().code, Code::Unavailable as i32);
    assert!(put.results[1].error.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_answer_needs_leave() {
    let (cluster, mut clients) = ready().await;
    let alive = cluster.id_in(1, 0);
    clients.put(vec![vector(&alive, [1.0; 4])]).await.unwrap();
    cluster.state.lock().dead_groups.push(2);
    let any = |r: &mut pb::SearchRequest| r.consistency = pb::Consistency::Any as i32;
    let error = clients.find(direction([1.0; 4]), any).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::PartialAnswer));
    assert!(error.message().contains("group 2"), "{error}");
    for consistency in [pb::Consistency::Any, pb::Consistency::Linearizable] {
        let allow = |r: &mut pb::SearchRequest| {
            r.consistency = consistency as i32;
            r.allow_partial = true;
        };
        let found = clients.find(direction([1.0; 4]), allow).await.unwrap();
        assert_eq!(ids(&found), [alive.as_str()]);
        let coverage = found.coverage.unwrap();
        assert_eq!((coverage.groups_asked, coverage.groups_answered, coverage.failures[0].group_id), (3, 2, 2));
    }
    cluster.state.lock().dead_groups.extend([1, 3]);
    let allow = |r: &mut pb::SearchRequest| {
        r.consistency = pb::Consistency::Any as i32;
        r.allow_partial = true;
    };
    let error = clients.find(direction([1.0; 4]), allow).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::PartialAnswer), "nothing at all is no answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_dead_replicas_do_not_slow_a_search() {
    let (cluster, mut clients) = ready().await;
    clients.put(vec![vector("a", [1.0; 4])]).await.unwrap();
    *cluster.script(1).delay.lock() = Duration::from_secs(20);
    let any = |r: &mut pb::SearchRequest| r.consistency = pb::Consistency::Any as i32;
    for _ in 0..10 {
        let begun = Instant::now();
        assert_eq!(ids(&clients.find(direction([1.0; 4]), any).await.unwrap()), ["a"]);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    assert!(
        cluster.script(1).searches.load(Ordering::SeqCst) > 0,
        "the slow node was never chosen: nothing was hedged"
    );
    cluster.kill(3);
    for _ in 0..10 {
        assert_eq!(ids(&clients.find(direction([1.0; 4]), any).await.unwrap()), ["a"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_goes_by_a_newer_map_also_if_a_node_is_dead() {
    // No poll comes in between.
    let cluster = Cluster::start_with(|config| config.poll_interval = Duration::from_secs(600)).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    cluster.kill(3);
    let any = |r: &mut pb::SearchRequest| r.consistency = pb::Consistency::Any as i32;
    for first in [700, 800, 900, 1000, 1100] {
        // Once it was met, the dead node is asked last: what it does not say is heard last.
        clients.find(direction([1.0; 4]), any).await.unwrap();
        cluster.move_slots(first);
        clients.find(direction([1.0; 4]), any).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_encoded_by_whoever_can() {
    let (cluster, mut clients) = ready().await;
    cluster.script(1).down.store(true, Ordering::SeqCst);
    cluster.script(2).down.store(true, Ordering::SeqCst);
    let any = |r: &mut pb::SearchRequest| r.consistency = pb::Consistency::Any as i32;
    for _ in 0..5 {
        clients.find(Target::Picture(Bytes::from_static(&[1, 2, 3, 4])), any).await.unwrap();
    }
    assert_eq!(cluster.script(3).encodes.load(Ordering::SeqCst), 5);
    let error = clients.find(Target::Picture(Bytes::from_static(b"x")), any).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::InvalidPicture));
}

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
async fn a_deadline_is_told_as_such() {
    let (cluster, mut clients) = ready().await;
    *cluster.script(1).delay.lock() = Duration::from_secs(20);
    let images = vec![vector(&cluster.id_in(1, 0), [1.0; 4])];
    let mut request = Request::new(pb::PutImagesRequest { collection: "c".into(), images, ..Default::default() });
    request.set_timeout(Duration::from_secs(2));
    let begun = Instant::now();
    let error = clients.images.put_images(request).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error)), (Code::DeadlineExceeded, Some(Reason::DeadlineExceeded)));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
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

#[tokio::test(flavor = "multi_thread")]
async fn collections_come_and_go() {
    let (cluster, mut clients) = ready().await;
    let create = |name: &str, id: &str| pb::CreateCollectionRequest {
        name: name.into(),
        request_id: id.into(),
        ..Default::default()
    };
    let first = clients.collections.create_collection(create("d", "r1")).await.unwrap().into_inner();
    assert_eq!(first.collection.as_ref().unwrap().vector_space.as_ref().unwrap().id, "omma-enc-test");
    let again = clients.collections.create_collection(create("d", "r1")).await.unwrap().into_inner();
    assert_eq!(first, again);
    let error = clients.collections.create_collection(create("d", "r2")).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error)), (Code::AlreadyExists, Some(Reason::CollectionExists)));
    clients.create("e").await;

    let mut names = vec![];
    let mut page_token = String::new();
    loop {
        let list = pb::ListCollectionsRequest { page_size: 2, page_token };
        let page = clients.collections.list_collections(list).await.unwrap().into_inner();
        names.extend(page.collections.into_iter().map(|c| c.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["c", "d", "e"]);

    clients.put(vec![vector("a", [1.0; 4])]).await.unwrap();
    let delete = |name: &str| pb::DeleteCollectionRequest { name: name.into() };
    clients.collections.delete_collection(delete("c")).await.unwrap();
    assert_eq!(cluster.state.lock().dropped.len(), 3);
    let error = clients.put(vec![vector("a", [1.0; 4])]).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::CollectionNotFound));
    let error = clients.collections.delete_collection(delete("c")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_was_broken_off_is_ended_by_the_next_call() {
    let (cluster, mut clients) = ready().await;
    {
        let mut state = cluster.state.lock();
        state.metadata.collections[0].deleting = true;
        state.metadata.version += 1;
        state.dropped.push((1, 1));
    }
    clients.collections.delete_collection(pb::DeleteCollectionRequest { name: "c".into() }).await.unwrap();
    assert!(cluster.state.lock().metadata.collections.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_comes_while_a_collection_is_deleted_drops_it_too() {
    let (cluster, mut clients) = ready().await;
    cluster.state.lock().grows_on_drop = true;
    clients.collections.delete_collection(pb::DeleteCollectionRequest { name: "c".into() }).await.unwrap();
    let state = cluster.state.lock();
    let mut dropped: Vec<u32> = state.dropped.iter().map(|(group, _)| *group).collect();
    dropped.sort_unstable();
    assert_eq!(dropped, [1, 2, 3, 4], "each once");
    assert!(state.metadata.collections.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_coordinators_collections_are_seen_at_once() {
    let (cluster, mut clients) = ready().await;
    // Made behind this coordinator's back: deleted and made again under the same name, with another uid.
    {
        let mut state = cluster.state.lock();
        state.dropped.extend([(1, 1), (2, 1), (3, 1)]);
        state.metadata.collections[0].collection.as_mut().unwrap().uid = 77;
        let mut other = state.metadata.collections[0].clone();
        other.collection.as_mut().unwrap().name = "other".into();
        other.collection.as_mut().unwrap().uid = 78;
        state.metadata.collections.push(other);
        state.metadata.version += 1;
    }
    clients.put(vec![vector("a", [1.0; 4])]).await.unwrap();
    assert_eq!(ids(&clients.find(direction([1.0; 4]), |_| {}).await.unwrap()), ["a"]);
    clients.find(direction([1.0; 4]), |r| r.collection = "other".into()).await.unwrap();
    let uids: BTreeSet<u64> = cluster.state.lock().records.values().flat_map(|r| r.keys().map(|k| k.0)).collect();
    assert_eq!(uids, BTreeSet::from([77]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_lists_everybody() {
    let (cluster, mut clients) = ready().await;
    cluster.script(3).down.store(true, Ordering::SeqCst);
    let status = clients.cluster.get_cluster_status(pb::GetClusterStatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.cluster_id, "cluster");
    assert_eq!(status.nodes.iter().map(|n| n.reachable).collect::<Vec<_>>(), [true, true, false]);
    assert!(status.nodes.iter().all(|n| !n.address.is_empty() && n.zone == "z"));
    assert_eq!(
        status.groups.iter().map(|g| (g.group_id, g.leader_node_id)).collect::<Vec<_>>(),
        [(0, 1), (1, 1), (2, 2), (3, 3)]
    );
    assert!(status.groups.iter().all(|g| g.agreement == pb::Agreement::Equal as i32));
    assert_eq!(status.groups[1].replicas.iter().filter(|r| r.reachable).count(), 2);
    assert_eq!(status.vector_space.unwrap().id, "omma-enc-test");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_waits_for_the_cluster_and_reflection_names_the_public_services() {
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

    let mut cluster = Cluster::start_with(|config| config.poll_interval = Duration::from_millis(50)).await;
    let clients = Clients::of(&cluster);
    let mut health = HealthClient::new(clients.channel.clone());
    for service in ["", "omma.v1.SearchService", "omma.v1.ImageService"] {
        let request = HealthCheckRequest { service: service.into() };
        let begun = Instant::now();
        while health.check(request.clone()).await.unwrap().into_inner().status != ServingStatus::Serving as i32 {
            assert!(begun.elapsed() < Duration::from_secs(10));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut reflection = ServerReflectionClient::new(clients.channel.clone());
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([list])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    let names: BTreeSet<_> = list.service.into_iter().map(|s| s.name).collect();
    assert!(names.contains("omma.v1.SearchService") && names.contains("grpc.health.v1.Health"), "{names:?}");
    assert!(!names.iter().any(|n| n.contains("internal")), "{names:?}");

    cluster.trigger.take().unwrap().fire();
    drop((health, reflection, answers, clients));
    let ended = tokio::time::timeout(Duration::from_secs(15), &mut cluster.coordinator).await;
    ended.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cluster_requests_are_told_so() {
    let cluster = Cluster::start_with(|config| config.shard_nodes = vec!["127.0.0.1:1".into()]).await;
    let mut clients = Clients::of(&cluster);
    let error = clients.put(vec![vector("a", [1.0; 4])]).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error)), (Code::Unavailable, Some(Reason::ClusterForming)));
    let mut health = tonic_health::pb::health_client::HealthClient::new(clients.channel.clone());
    let status = health.check(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner().status;
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::NotServing as i32);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_refused_with_a_hint_to_retry() {
    let cluster = Cluster::start_with(|config| config.limits.requests = 1).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    *cluster.script(1).delay.lock() = Duration::from_secs(1);
    let id = cluster.id_in(1, 0);
    let slow = {
        let mut clients = Clients::of(&cluster);
        tokio::spawn(async move { clients.put(vec![vector(&id, [1.0; 4])]).await })
    };
    while cluster.script(1).puts.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let error = clients.find(direction([1.0; 4]), |_| {}).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::Overloaded));
    assert!(tonic_types::StatusExt::get_details_retry_info(&error).is_some());
    slow.await.unwrap().unwrap();
}
