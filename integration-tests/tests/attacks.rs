//! Attacks on the public port, one after the other, while a polite client works beside them: what came back, what it
//! cost, and that the neighbour was not hurt. Prints the table of `docs/security.md`.
//!
//! Hostile pictures are in `hostile.rs`, certificates in `security.rs`, tokens and keys in the coordinator's tests.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use omma_common::error::{Reason, reason_of};
use omma_integration_tests::client::{Client, picture_image, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::shared_data;
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, jpeg};
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::query::Target;
use omma_proto::v1::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;

const COLLECTION: &str = "attacked";
const CONNECTIONS: usize = 500;
const PATIENCE: Duration = Duration::from_secs(30);
/// Resident memory that no process may pass.
const MOST_MEMORY: u64 = 2 << 30;
/// What a neighbour's search may take on a busy machine, in the dev profile.
const MOST_WAIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn attacks_cost_the_attacker_and_not_the_neighbour() -> Result<()> {
    let limit = CONNECTIONS.to_string();
    let flags = ["--max-connections", &limit, "--idle-stream-seconds", "2"];
    let cluster = Cluster::start(ClusterOptions::single("attacks").coordinator_flags(&flags)).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, None).await?;
    let known = jpeg(&draw(1, 200, 200), 90)?;
    client.store(COLLECTION, vec![picture_image("known", known)], PATIENCE).await?;

    note!("| attack | what came back | time | memory at peak, coordinator and node | neighbour's slowest search |");
    note!("|---|---|---|---|---|");
    let quiet = attack(&cluster, "nothing", async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok("quiet".into())
    });
    quiet.await?;
    attack(&cluster, "200 streams that send nothing", silent_streams(&client)).await?;
    attack(&cluster, "100 requests whose message never ends", endless_messages(&cluster)).await?;
    attack(&cluster, "headers of 1 MiB", huge_headers(&client)).await?;
    attack(&cluster, "4,000 connections that say nothing", idle_connections(&cluster)).await?;
    attack(&cluster, "1,000 reflection requests of unknown files", reflection(&client)).await?;
    attack(&cluster, "a message of 40 MiB", oversize(&client)).await?;
    attack(&cluster, "an attribute's name of 8 MiB", long_name(&client)).await?;
    attack(&cluster, "a batch of 100,000 empty queries", many_queries(&client)).await?;
    attack(&cluster, "a request id used again, for other images", replay(&client)).await?;
    attack(&cluster, "5,000 connections that send rubbish", rubbish(&cluster)).await?;
    if let Some(folder) = shared_data("malformed/synthetic") {
        attack(&cluster, "all synthetic hostile pictures, 8 at once", hostile(&client, &folder)).await?;
    }
    Ok(())
}

/// Makes an attack beside a polite client, and prints its row.
async fn attack(cluster: &Cluster, name: &str, work: impl Future<Output = Result<String>>) -> Result<()> {
    let (polite, stop) = (cluster.client()?, AtomicBool::new(false));
    let begin = Instant::now();
    let attacking = async {
        let outcome = tokio::time::timeout(Duration::from_secs(60), work).await;
        stop.store(true, Ordering::Relaxed);
        outcome.with_context(|| format!("{name}: the attack hung"))?.with_context(|| name.to_owned())
    };
    let neighbour = async {
        let (mut slowest, picture) = (Duration::ZERO, jpeg(&draw(1, 200, 200), 90)?);
        while !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let found = polite.search(COLLECTION, Target::Picture(picture.clone()), 1).await;
            let found = found.with_context(|| format!("{name}: the neighbour was refused"))?;
            ensure!(found.hits.first().is_some_and(|h| h.id == "known"), "{name}: {found:?}");
            slowest = slowest.max(begin.elapsed());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(slowest)
    };
    let (outcome, slowest) = tokio::join!(attacking, neighbour);
    let (outcome, slowest, took) = (outcome?, slowest?, begin.elapsed());
    let (coordinator, node) = (cluster.coordinator_process(0)?.memory()?, cluster.shard_process(0)?.memory()?);
    let peak = (coordinator.peak >> 20, node.peak >> 20);
    note!("| {name} | {outcome} | {took:.1?} | {} and {} MiB | {slowest:.0?} |", peak.0, peak.1);
    ensure!(slowest < MOST_WAIT, "{name}: the neighbour waited {slowest:?}");
    ensure!(coordinator.peak < MOST_MEMORY && node.peak < MOST_MEMORY, "{name}: {coordinator:?} {node:?}");
    Ok(())
}

async fn silent_streams(client: &Client) -> Result<String> {
    let mut streams = Vec::new();
    for _ in 0..200 {
        let silent = tokio_stream::pending::<IngestImagesRequest>();
        streams.push(client.images().ingest_images(silent).await?.into_inner());
    }
    let mut ended = 0;
    for stream in &mut streams {
        let status = stream.message().await.err().context("a silent stream was not ended")?;
        ensure!(reason_of(&status) == Some(Reason::DeadlineExceeded), "{status:?}");
        ended += 1;
    }
    Ok(format!("{ended} ended with DEADLINE_EXCEEDED"))
}

/// The start of an HTTP/2 connection, and one request whose body is announced and never comes.
async fn endless_messages(cluster: &Cluster) -> Result<String> {
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
        // A message of 16 MiB, of which one byte comes.
        bytes.extend_from_slice(&[0, 0, 6, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 7]);
        tcp.write_all(&bytes).await?;
        open.push(tcp);
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok("nothing: each waits until its 35 s are over".into())
}

async fn huge_headers(client: &Client) -> Result<String> {
    let mut request = Request::new(GetClusterStatusRequest {});
    request.metadata_mut().insert("x-large", MetadataValue::try_from("x".repeat(1 << 20))?);
    let mut cluster = ClusterServiceClient::new(client.channel());
    let status = cluster.get_cluster_status(request).await.err().context("1 MiB of headers were taken")?;
    Ok(format!("{:?}", status.code()))
}

async fn idle_connections(cluster: &Cluster) -> Result<String> {
    let mut open = Vec::new();
    for _ in 0..4_000 {
        open.push(TcpStream::connect(cluster.address()?).await?);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut closed = 0;
    for tcp in &mut open {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_micros(200), tcp.read(&mut byte)).await;
        closed += usize::from(matches!(read, Ok(Ok(0) | Err(_))));
    }
    ensure!(closed >= 4_000 - CONNECTIONS, "only {closed} were closed");
    Ok(format!("{closed} closed, to keep to {CONNECTIONS}"))
}

async fn reflection(client: &Client) -> Result<String> {
    let requests = (0..1_000).map(|n| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::FileByFilename(format!("{n}{}", "x".repeat(1000)))),
    });
    let mut answers = ServerReflectionClient::new(client.channel())
        .server_reflection_info(tokio_stream::iter(requests))
        .await?
        .into_inner();
    let mut codes = std::collections::BTreeMap::new();
    let outcome = loop {
        match answers.message().await {
            Ok(Some(_)) => *codes.entry("answered").or_insert(0) += 1,
            Ok(None) => break "the end".to_owned(),
            Err(status) => break format!("{:?}", status.code()),
        }
    };
    Ok(format!("{codes:?}, then {outcome}"))
}

async fn oversize(client: &Client) -> Result<String> {
    let picture = vec![0xFF; 40 << 20];
    let status = client.put(COLLECTION, vec![picture_image("a", picture.into())]).await.err().context("taken")?;
    ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    Ok("RESOURCE_EXHAUSTED, MESSAGE_TOO_LARGE".into())
}

async fn long_name(client: &Client) -> Result<String> {
    let mut image = vector_image("a", vec![1.0; 1280]);
    image.attributes.insert("n".repeat(8 << 20), AttributeValue { kind: Some(attribute_value::Kind::BoolValue(true)) });
    let status = client.put(COLLECTION, vec![image]).await.err().context("taken")?;
    ensure!(status.code() == Code::InvalidArgument && status.message().len() < 10_000, "{:?}", status.code());
    Ok("INVALID_ARGUMENT".into())
}

async fn many_queries(client: &Client) -> Result<String> {
    let queries = vec![Query::default(); 100_000];
    let request = BatchSearchRequest { collection: COLLECTION.into(), queries, ..Default::default() };
    let status = client.searches().batch_search(request).await.err().context("taken")?;
    ensure!(status.code() == Code::InvalidArgument, "{status:?}");
    Ok("INVALID_ARGUMENT".into())
}

async fn replay(client: &Client) -> Result<String> {
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

async fn rubbish(cluster: &Cluster) -> Result<String> {
    let mut closed = 0;
    for n in 0..5_000u32 {
        let mut tcp = TcpStream::connect(cluster.address()?).await?;
        let bytes: Vec<u8> = (0..200).map(|i| (n.wrapping_mul(2_654_435_761).wrapping_add(i * 7) >> 8) as u8).collect();
        let _ = tcp.write_all(&bytes).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await;
        closed += usize::from(read.is_ok());
    }
    ensure!(closed == 5_000, "only {closed} were closed");
    Ok(format!("{closed} closed"))
}

async fn hostile(client: &Client, folder: &std::path::Path) -> Result<String> {
    use futures::StreamExt;
    let mut files: Vec<_> = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    let n = files.len();
    let put = |path: std::path::PathBuf| async move {
        let bytes = std::fs::read(&path).unwrap_or_default().into();
        client.put(COLLECTION, vec![picture_image("h", bytes)]).await
    };
    let answers: Vec<_> = futures::stream::iter(files).map(put).buffer_unordered(8).collect().await;
    let refused = answers
        .iter()
        .filter(|a| match a {
            Ok(answer) => answer.results.iter().any(|r| r.error.as_ref().is_some_and(|e| e.code != 0)),
            Err(_) => true,
        })
        .count();
    let broken = answers.iter().filter(|a| a.as_ref().is_err_and(|s| s.code() != Code::InvalidArgument)).count();
    ensure!(broken == 0, "{:?}", answers.iter().filter_map(|a| a.as_ref().err()).collect::<Vec<_>>());
    Ok(format!("of {n} files {refused} refused, each by itself"))
}
