//! What one client can take of a coordinator, and what is left to others.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::error::{Reason, metadata_of, reason_of};
use omma_common::limits::MAX_DECODED_BYTES;
use omma_proto::v1 as pb;
use omma_proto::v1::new_image::Content;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use crate::clients::{Clients, direction, ready, vector};
use crate::raw::Raw;
use crate::support::Cluster;

/// Another client, as far as the coordinator can see.
fn another(cluster: &Cluster) -> Clients {
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    Clients::over(Endpoint::from_shared(cluster.address.clone()).unwrap().local_address(Some(address)).connect_lazy())
}

fn ingest(sequence: u64, id: &str) -> pb::IngestImagesRequest {
    let image = Some(vector(id, [1.0; 4]));
    pb::IngestImagesRequest { collection: "c".into(), sequence, image, request_id: String::new() }
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn send(channel: &Channel, path: &'static str, message: Vec<u8>) -> Status {
    let mut grpc = tonic::client::Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static(path);
    grpc.unary(Request::new(message), path, Raw).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_millions_of_parts_is_refused_by_name() {
    let (_cluster, mut clients) = ready().await;
    let part = [0x12, 0].repeat(10 << 20);
    for path in ["/omma.v1.SearchService/BatchSearch", "/omma.v1.ImageService/PutImages"] {
        let refusal = send(&clients.channel, path, part.clone()).await;
        assert_eq!((refusal.code(), reason_of(&refusal)), (Code::ResourceExhausted, Some(Reason::MessageTooLarge)));
        assert_eq!(metadata_of(&refusal, "limit_name").as_deref(), Some("decoded-message-bytes"));
        assert_eq!(metadata_of(&refusal, "limit").as_deref(), Some(MAX_DECODED_BYTES.to_string().as_str()));
    }
    // In a stream, too: attributes of an image.
    let mut image = vec![0x1A];
    prost::encoding::encode_varint(part.len() as u64, &mut image);
    let stream = tokio_stream::iter([[image, [0x22, 0].repeat(10 << 20)].concat()]);
    let mut grpc = tonic::client::Grpc::new(clients.channel.clone());
    grpc.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/omma.v1.ImageService/IngestImages");
    let mut answers: Streaming<usize> = grpc.streaming(Request::new(stream), path, Raw).await.unwrap().into_inner();
    let refusal = answers.message().await.unwrap_err();
    assert_eq!(reason_of(&refusal), Some(Reason::MessageTooLarge), "{refusal:?}");
    assert_eq!(metadata_of(&refusal, "limit_name").as_deref(), Some("decoded-message-bytes"));
    assert!(clients.find(direction([1.0; 4]), |_| {}).await.is_ok(), "the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_served_count_and_one_client_leaves_memory_to_others() {
    let cluster = Cluster::start_with(|config| config.limits.arriving_bytes = 2 << 20).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    *cluster.script(1).delay.lock() = Duration::from_secs(1);
    let put = |mut clients: Clients, n: usize| {
        let content = Some(Content::Picture(Bytes::from(vec![200; 300 << 10])));
        let image = pb::NewImage { id: cluster.id_in(1, n), content, ..Default::default() };
        async move { clients.put(vec![image]).await }
    };
    let greedy = (0..12).map(|n| put(Clients::over(clients.channel.clone()), n));
    let greedy = tokio::spawn(futures::future::join_all(greedy.collect::<Vec<_>>()));
    until("puts are served", async || cluster.script(1).puts.load(Ordering::SeqCst) >= 3).await;
    put(another(&cluster), 20).await.unwrap();
    let (taken, refused): (Vec<_>, Vec<_>) = greedy.await.unwrap().into_iter().partition(Result::is_ok);
    assert!((3..=5).contains(&taken.len()), "{} of 12 at once", taken.len());
    for refusal in refused.into_iter().filter_map(Result::err) {
        assert_eq!(reason_of(&refusal), Some(Reason::Overloaded), "{refusal:?}");
        assert_eq!(metadata_of(&refusal, "limit_name").as_deref(), Some("max-arriving-mib"));
        assert!(tonic_types::StatusExt::get_details_retry_info(&refusal).is_some());
    }
    *cluster.script(1).delay.lock() = Duration::ZERO;
    for n in 0..12 {
        put(Clients::over(clients.channel.clone()), n).await.unwrap();
    }
}

/// No image of it is refused: the next is read when the memory allows.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_reads_one_image_at_a_time_while_memory_is_short() {
    let cluster = Cluster::start_with(|config| config.limits.arriving_bytes = 1 << 20).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    *cluster.script(1).delay.lock() = Duration::from_millis(20);
    let requests: Vec<_> = (0..20).map(|n| ingest(n, &cluster.id_in(1, n as usize))).collect();
    let mut answers = clients.images.ingest_images(tokio_stream::iter(requests)).await.unwrap().into_inner();
    let mut count = 0;
    while let Some(answer) = answers.message().await.unwrap() {
        assert!(answer.result.unwrap().error.is_none());
        count += 1;
    }
    assert_eq!((count, cluster.script(1).most_in_flight.load(Ordering::SeqCst)), (20, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_answers_are_not_read_ends() {
    let cluster = Cluster::start_with(|config| {
        config.limits.requests = 1;
        config.limits.idle_stream = Duration::from_secs(1);
    })
    .await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    // Answers of a few hundred bytes: soon the window is full.
    let narrow = Endpoint::from_shared(cluster.address.clone()).unwrap().initial_stream_window_size(1 << 10);
    let mut unread = Clients::over(narrow.connect_lazy());
    let (to, requests) = mpsc::channel(64);
    let sending = tokio::spawn(async move {
        for n in 0.. {
            if to.send(ingest(n, "")).await.is_err() {
                return;
            }
        }
    });
    let mut answers = unread.images.ingest_images(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let refusal = clients.find(direction([1.0; 4]), |_| {}).await.unwrap_err();
    assert_eq!(reason_of(&refusal), Some(Reason::Overloaded), "the stream has the only place");
    let mut searches = Clients::of(&cluster);
    until("its place is free", async || searches.find(direction([1.0; 4]), |_| {}).await.is_ok()).await;
    let error = loop {
        match answers.message().await {
            Ok(answer) => assert!(answer.is_some(), "it ended well"),
            Err(error) => break error,
        }
    };
    assert_eq!(reason_of(&error), Some(Reason::DeadlineExceeded), "{error:?}");
    assert_eq!(metadata_of(&error, "limit_name").as_deref(), Some("idle-stream-seconds"));
    sending.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_client_leave_places_to_others() {
    let cluster = Cluster::start_with(|config| config.limits.requests = 8).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    let mut open = vec![];
    let refusal = loop {
        let (requests, silent) = mpsc::channel(1);
        match clients.images.ingest_images(ReceiverStream::new(silent)).await {
            Ok(stream) => open.push((requests, stream.into_inner())),
            Err(refusal) => break refusal,
        }
    };
    assert_eq!((open.len(), reason_of(&refusal)), (3, Some(Reason::Overloaded)), "of the half that streams may have");
    let mut other = another(&cluster);
    other.find(direction([1.0; 4]), |_| {}).await.unwrap();
    let (_requests, silent) = mpsc::channel(1);
    open.push((_requests, other.images.ingest_images(ReceiverStream::new(silent)).await.unwrap().into_inner()));
    clients.find(direction([1.0; 4]), |_| {}).await.expect("the other half is for what ends by itself");
    drop(open);
    until("their places are free", async || clients.find(direction([1.0; 4]), |_| {}).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_search_does_not_wait_for_the_many_of_another_client() {
    let cluster = Cluster::start_with(|config| config.limits.calls_per_node = 1).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    let mut other = another(&cluster);
    other.find(direction([1.0; 4]), |_| {}).await.unwrap();
    for script in &cluster.scripts {
        *script.delay.lock() = Duration::from_millis(30);
    }
    let begun = Instant::now();
    let flood = (0..30).map(|_| {
        let mut clients = Clients::over(clients.channel.clone());
        async move { clients.find(direction([1.0; 4]), |_| {}).await }
    });
    let flood = tokio::spawn(futures::future::join_all(flood.collect::<Vec<_>>()));
    until("the flood has begun", async || cluster.script(1).searches.load(Ordering::SeqCst) > 1).await;
    let asked = Instant::now();
    other.find(direction([1.0; 4]), |_| {}).await.unwrap();
    let waited = asked.elapsed();
    flood.await.unwrap();
    let (all, most) = (begun.elapsed(), Duration::from_millis(400));
    assert!(waited < most && all > 2 * waited, "it waited {waited:?} beside searches that took {all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_not_read_count_as_their_clients() {
    let cluster = Cluster::start_with(|config| config.limits.arriving_bytes = 4 << 20).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    let mut image = vector("a", [1.0; 4]);
    let text = pb::attribute_value::Kind::StringValue("x".repeat(3000));
    image.attributes.insert("text".into(), pb::AttributeValue { kind: Some(text) });
    clients.put(vec![image]).await.unwrap();
    // 3 MB, of which the window takes a little.
    let ids = vec!["a".to_owned(); 1000];
    let request = pb::BatchGetImagesRequest { collection: "c".into(), ids, ..Default::default() }.encode_to_vec();
    let narrow = Endpoint::from_shared(cluster.address.clone()).unwrap().initial_stream_window_size(1 << 10);
    let mut grpc = tonic::client::Grpc::new(narrow.connect_lazy());
    let mut get = async || {
        grpc.ready().await.unwrap();
        let path = tonic::codegen::http::uri::PathAndQuery::from_static("/omma.v1.ImageService/BatchGetImages");
        grpc.server_streaming(Request::new(request.clone()), path, Raw).await.map(tonic::Response::into_inner)
    };
    let mut unread = get().await.unwrap();
    let refusal = get().await.unwrap_err();
    assert_eq!(reason_of(&refusal), Some(Reason::Overloaded), "{refusal:?}");
    assert_eq!(metadata_of(&refusal, "limit_name").as_deref(), Some("max-arriving-mib"));
    another(&cluster).find(direction([1.0; 4]), |_| {}).await.unwrap();
    assert!(unread.message().await.unwrap().is_some_and(|bytes| bytes > 3_000_000));
    until("it was sent", async || get().await.is_ok()).await;
}
