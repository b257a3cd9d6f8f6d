//! Messages that never end, are too large, too deep, or come again.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;
use omma_common::error::{Reason, metadata_of, reason_of};
use omma_integration_tests::client::{Client, channel, picture_image, vector_image};
use omma_integration_tests::cluster::Cluster;
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::*;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tower::{Service, ServiceExt};

use super::raw::Raw;
use super::{ARRIVING, COLLECTION, REQUEST};

/// The start of an HTTP/2 connection, and one request whose body is announced and never comes.
pub(crate) async fn endless_messages(cluster: &Cluster) -> Result<String> {
    let mut open = Vec::new();
    for _ in 0..100 {
        let mut tcp = TcpStream::connect(cluster.address()?).await?;
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        let mut headers = vec![0x83, 0x86];
        let mut literal = |name: &[u8], value: &[u8]| {
            headers.push(0);
            for text in [name, value] {
                headers.push(text.len() as u8);
                headers.extend_from_slice(text);
            }
        };
        literal(b":path", b"/omma.v1.SearchService/Search");
        literal(b":authority", b"x");
        literal(b"content-type", b"application/grpc");
        literal(b"te", b"trailers");
        bytes.extend_from_slice(&(headers.len() as u32).to_be_bytes()[1..]);
        bytes.extend_from_slice(&[1, 4, 0, 0, 0, 1]);
        bytes.extend_from_slice(&headers);
        // A message of 16 MiB, of which one byte comes: the key of its first field.
        bytes.extend_from_slice(&[0, 0, 6, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0x0A]);
        tcp.write_all(&bytes).await?;
        open.push(tcp);
    }
    let begun = Instant::now();
    let ends = open.into_iter().map(|tcp| async move {
        let answered = tokio::time::timeout(REQUEST * 2, answered(tcp)).await.unwrap_or(false);
        (answered, begun.elapsed())
    });
    for (answered, after) in futures::future::join_all(ends).await {
        // A little less than the limit passes between the last byte and here.
        ensure!(answered && after > REQUEST / 2, "answered: {answered}, after {after:?}");
    }
    let last = begun.elapsed().as_secs_f64();
    Ok(format!("all ended by an answer, the last after {last:.1} s; the limit here is {REQUEST:?}"))
}

/// Whether headers of an answer come before the connection ends. RFC 9113, 4.1.
async fn answered(mut tcp: TcpStream) -> bool {
    const HEADERS: u8 = 1;
    let mut head = [0; 9];
    while tcp.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        if tcp.read_exact(&mut payload).await.is_err() {
            return false;
        }
        if head[3] == HEADERS {
            return true;
        }
    }
    false
}

/// Each on a connection of its own. Whoever began first gives way to the rest.
pub(crate) async fn halves(cluster: &Cluster) -> Result<String> {
    let half = || -> Result<_> {
        // A text of 29 MiB begins.
        let mut head = [&[0][..], &(30u32 << 20).to_be_bytes(), &[0x0A]].concat();
        prost::encoding::encode_varint(29 << 20, &mut head);
        let parts = [head, vec![0; 8 << 20]].map(|part| Ok::<_, Status>(Frame::data(Bytes::from(part))));
        let body = Body::new(StreamBody::new(tokio_stream::iter(parts).chain(tokio_stream::pending())));
        let request = http::Request::post(format!("http://{}/omma.v1.ImageService/PutImages", cluster.address()?));
        let request = request.header("content-type", "application/grpc").header("te", "trailers").body(body)?;
        let mut channel = channel(cluster.address()?)?;
        Ok(async move {
            let called = async { channel.ready().await.ok()?.call(request).await.ok() };
            tokio::time::timeout(Duration::from_secs(4), called).await.ok().flatten()
        })
    };
    let calls = (0..20).map(|_| half()).collect::<Result<Vec<_>>>()?;
    let answers = futures::future::join_all(calls).await;
    let code = |answer: &http::Response<Body>| {
        answer.headers().get("grpc-status").map(|code| code.to_str().unwrap_or("?").to_owned())
    };
    let refused = answers.iter().flatten().filter(|answer| code(answer).as_deref() == Some("8")).count();
    // Of one client, which gets half.
    ensure!(refused >= 20 - ARRIVING / 2 / 8, "{refused} refused of {}", answers.len());
    Ok(format!("{refused} refused with `RESOURCE_EXHAUSTED`, to keep to {} MiB", ARRIVING / 2))
}

/// All at once, each whole after a moment, of one client.
pub(crate) async fn whole(client: &Client) -> Result<String> {
    let puts = (0..40).map(|n| {
        let image = picture_image(&format!("w{n}"), vec![7; 15 << 20].into());
        async move { client.put(COLLECTION, vec![image]).await }
    });
    let (mut answered, mut refused) = (0, 0);
    for put in futures::future::join_all(puts).await {
        match put {
            // It is no picture.
            Ok(answer) => answered += answer.results.len(),
            Err(status) => {
                let limit = metadata_of(&status, "limit_name");
                ensure!(limit.as_deref() == Some("max-arriving-mib"), "{status:?}");
                refused += 1;
            }
        }
    }
    ensure!(answered + refused == 40 && refused > 0 && answered > 0, "{answered} answered, {refused} refused");
    Ok(format!("{refused} refused with `RESOURCE_EXHAUSTED`, as one client's share of {ARRIVING} MiB"))
}

/// As large as a message may be, of the smallest parts: four of each at once.
pub(crate) async fn tiny_parts(client: &Client) -> Result<String> {
    // Field 2 of InCondition, 2 of Filter, 6 of Query, 2 of SearchRequest; an empty part of field 2.
    let (search, batch, put) =
        ("/omma.v1.SearchService/Search", "/omma.v1.SearchService/BatchSearch", "/omma.v1.ImageService/PutImages");
    for (path, within) in [(batch, &[][..]), (search, &[0x12, 0x32, 0x12]), (put, &[])] {
        let mut message = [0x12, 0].repeat(15 << 20);
        for key in within {
            let mut head = vec![*key];
            prost::encoding::encode_varint(message.len() as u64, &mut head);
            message = [head, message].concat();
        }
        let calls = (0..4).map(|_| {
            let (mut grpc, message) = (tonic::client::Grpc::new(client.channel()), message.clone());
            async move {
                grpc.ready().await?;
                let path = http::uri::PathAndQuery::from_static(path);
                grpc.unary(Request::new(message), path, Raw).await.err().context("taken")
            }
        });
        let mut too_large = 0;
        for status in futures::future::try_join_all(calls).await? {
            match (reason_of(&status), metadata_of(&status, "limit_name").as_deref()) {
                (Some(Reason::MessageTooLarge), Some("decoded-message-bytes")) => too_large += 1,
                // Those that come beside it are their client's, too, and share its memory.
                (Some(Reason::Overloaded), Some("max-arriving-mib")) => {}
                _ => bail!("{path}: {status:?}"),
            }
        }
        ensure!(too_large > 0, "{path}: none was too large");
    }
    Ok("`RESOURCE_EXHAUSTED`, before they are decoded".into())
}

pub(crate) async fn huge_headers(client: &Client) -> Result<String> {
    let mut request = Request::new(GetClusterStatusRequest {});
    request.metadata_mut().insert("x-large", MetadataValue::try_from("x".repeat(1 << 20))?);
    let mut cluster = ClusterServiceClient::new(client.channel());
    let status = cluster.get_cluster_status(request).await.err().context("1 MiB of headers were taken")?;
    // The transport says why and ends the connection. A client that still sends may notice the end first.
    ensure!(status.code() == Code::ResourceExhausted || broken_off(&status), "{status:?}");
    Ok("`RESOURCE_EXHAUSTED` from the transport, or the end of the connection".into())
}

/// Whether the connection ended while the client sent.
fn broken_off(status: &Status) -> bool {
    let causes = std::iter::successors(std::error::Error::source(status), |cause| cause.source());
    let kinds = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
    kinds.into_iter().any(|kind| matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset))
}

pub(crate) async fn reflection(client: &Client) -> Result<String> {
    let requests = (0..1_000).map(|n| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileByFilename(format!("{n}{}", "x".repeat(1000)))),
    });
    let mut answers = ServerReflectionClient::new(client.channel())
        .server_reflection_info(tokio_stream::iter(requests))
        .await?
        .into_inner();
    let mut answered = 0;
    let outcome = loop {
        match answers.message().await {
            Ok(Some(_)) => answered += 1,
            Ok(None) => bail!("the stream ended well after {answered} answers"),
            Err(status) => break status,
        }
    };
    ensure!(answered == 0 && outcome.code() == Code::NotFound, "after {answered} answers: {outcome:?}");
    Ok("the stream ends with `NOT_FOUND`".into())
}

pub(crate) async fn oversize(client: &Client) -> Result<String> {
    let picture = vec![0xFF; 40 << 20];
    let status = client.put(COLLECTION, vec![picture_image("a", picture.into())]).await.err().context("taken")?;
    ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    Ok("RESOURCE_EXHAUSTED, MESSAGE_TOO_LARGE".into())
}

pub(crate) async fn long_name(client: &Client) -> Result<String> {
    let mut image = vector_image("a", vec![1.0; 1280]);
    image.attributes.insert("n".repeat(8 << 20), AttributeValue { kind: Some(attribute_value::Kind::BoolValue(true)) });
    let status = client.put(COLLECTION, vec![image]).await.err().context("taken")?;
    ensure!(status.code() == Code::InvalidArgument && status.message().len() < 10_000, "{:?}", status.code());
    Ok("INVALID_ARGUMENT".into())
}

pub(crate) async fn many_queries(client: &Client) -> Result<String> {
    let queries = vec![Query::default(); 100_000];
    let request = BatchSearchRequest { collection: COLLECTION.into(), queries, ..Default::default() };
    let status = client.searches().batch_search(request).await.err().context("taken")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    Ok("INVALID_ARGUMENT".into())
}

/// One that is too deep for the server, one that is so for Protobuf, and one for whoever would walk it.
pub(crate) async fn deep_filters(cluster: &Cluster) -> Result<String> {
    // Field numbers of Filter.negation, Query.filter, SearchRequest.query; Protobuf's kind 2: what follows has a length.
    let [negation, filter, query] = [7u8, 6, 2].map(|field| field << 3 | 2);
    let mut grpc = tonic::client::Grpc::new(channel(cluster.address()?)?);
    let mut answers = Vec::new();
    for depth in [9, 60, 100_000] {
        // From the inside, and backwards: no encoder goes so deep.
        let mut backwards = Vec::new();
        for number in std::iter::repeat_n(negation, depth).chain([filter, query]) {
            let mut head = vec![number];
            prost::encoding::encode_varint(backwards.len() as u64, &mut head);
            backwards.extend(head.into_iter().rev());
        }
        let name = SearchRequest { collection: COLLECTION.into(), ..Default::default() }.encode_to_vec();
        let bytes: Vec<u8> = name.into_iter().chain(backwards.into_iter().rev()).collect();
        grpc.ready().await?;
        let path = http::uri::PathAndQuery::from_static("/omma.v1.SearchService/Search");
        let answer = grpc.unary(Request::new(bytes), path, Raw).await.err().context("taken")?;
        ensure!(answer.code() == Code::InvalidArgument, "{depth} levels: {answer:?}");
        answers.push(answer);
    }
    ensure!(answers[0].message().contains("deeper than 8 levels"), "{answers:?}");
    Ok("`INVALID_ARGUMENT`".into())
}

pub(crate) async fn replay(client: &Client) -> Result<String> {
    let put = |ids: &[&str], request_id: &str| {
        let images = ids.iter().map(|id| vector_image(id, vec![1.0; 1280])).collect();
        let request = PutImagesRequest { collection: COLLECTION.into(), images, request_id: request_id.into() };
        let mut images = client.images();
        async move { images.put_images(request).await.map(tonic::Response::into_inner) }
    };
    let id = "11111111-1111-4111-8111-111111111111";
    let first = put(&["r1"], id).await?;
    let again = put(&["r1"], id).await?;
    ensure!(first.results[0].effect == again.results[0].effect, "{first:?} {again:?}");
    let other = put(&["r1", "r2"], id).await.err().context("a used request id was taken for other images")?;
    ensure!(other.code() == Code::InvalidArgument, "{other:?}");
    Ok("the first answer again; for other images INVALID_ARGUMENT".into())
}
