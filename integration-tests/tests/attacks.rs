//! Attacks on the public port, one after the other, while a polite client works beside them: what came back, what it
//! cost, and that the neighbour was not hurt. Prints the table of `docs/security.md`.
//!
//! Hostile pictures are in `hostile.rs`, certificates in `security.rs`, tokens and keys in the coordinator's tests.

#[path = "../../coordinator/tests/support/raw.rs"]
mod raw;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;
use omma_common::error::{Reason, reason_of};
use omma_common::serve::{ConnectionLimits, Incoming, Security};
use omma_common::tls::PeerKind;
use omma_integration_tests::client::{Client, channel, picture_image, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::{shared_data, target_folder};
use omma_integration_tests::nested::nested_profiles;
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, jpeg};
use omma_proto::internal::v1::DiscoverRequest;
use omma_proto::internal::v1::metadata_service_client::MetadataServiceClient;
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::query::Target;
use omma_proto::v1::*;
use prost::Message;
use raw::Raw;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::body::Body;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tower::{Service, ServiceExt};

const COLLECTION: &str = "attacked";
/// Connections of the public port.
const CONNECTIONS: usize = 500;
/// Connections of one attack that are open at once, in the default run and in the long one.
const MANY_CONNECTIONS: usize = 2_000;
const MOST_CONNECTIONS: usize = 10_000;
const PATIENCE: Duration = Duration::from_secs(30);
/// Of the shard node, in MiB: told to it, and not to be passed.
const NODE_MEMORY: u64 = 1024;
/// Of the coordinator, in MiB.
const COORDINATOR_MEMORY: u64 = 512;
/// Bytes of messages that are still arriving at the coordinator, in MiB.
const ARRIVING: usize = 64;
/// Until an answer has to begin.
const REQUEST: Duration = Duration::from_secs(10);
/// What a neighbour's search may take on a busy machine, in the dev profile.
const MOST_WAIT: Duration = Duration::from_secs(5);

/// Attack, what is sent, the file.
const BOMBS: [(&str, &str, &str); 5] = [
    ("bomb of pixels", "50 PNGs of 109 KB that say 30,000 x 30,000", "bomb_30000x30000_1bit_a.png"),
    ("bomb of pixels, GIF", "50 GIFs of 35 bytes that say 65,535 x 65,535", "bomb.gif"),
    ("bomb of text", "50 PNGs whose zTXt chunk inflates to 64 MiB", "ztxt_bomb.png"),
    ("bomb of a profile", "50 PNGs whose ICC profile inflates to 96 MiB", "iccp_bomb.png"),
    ("bomb of frames", "50 GIFs of 500 frames", "anim_500_frames.gif"),
];

/// The example of RFC 7517, A.1.
const JWKS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","use":"sig","kid":"1","alg":"ES256",
"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;
/// `{"alg":"none","kid":"1"}`, and claims of that issuer with all roles until 2100.
const UNSIGNED: &str = concat!(
    "eyJhbGciOiJub25lIiwia2lkIjoiMSJ9.eyJpc3MiOiJodHRwczovL2lkIiwiYXVkIjoib21tYSIsInN1YiI6ImV2Z",
    "SIsImV4cCI6NDEwMjQ0NDgwMCwib21tYV9yb2xlcyI6WyJyZWFkIiwid3JpdGUiLCJhZG1pbiJdLCJvbW1hX2NvbGx",
    "lY3Rpb25zIjpbIioiXX0.",
);

#[tokio::test(flavor = "multi_thread")]
async fn attacks_cost_the_attacker_and_not_the_neighbour() -> Result<()> {
    allow_many_connections()?;
    let (connections, arriving, memory) = (CONNECTIONS.to_string(), ARRIVING.to_string(), NODE_MEMORY.to_string());
    let request = REQUEST.as_secs().to_string();
    let mut flags = vec!["--max-connections", &connections, "--idle-stream-seconds", "2"];
    flags.extend(["--max-arriving-mib", &arriving, "--max-request-seconds", &request]);
    let options =
        ClusterOptions::single("attacks").coordinator_flags(&flags).shard_flags(&["--memory-limit-mib", &memory]);
    let cluster = Cluster::start(options).await?;
    let client = prepared(&cluster).await?;
    let quiet = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        Ok("".into())
    };
    attack(&cluster, "none", "nothing", quiet).await?;
    attack(&cluster, "silent streams", "200 ingest streams without a message", silent_streams(&client)).await?;
    attack(&cluster, "slow loris", "100 requests of 16 MiB, of which one byte comes", endless_messages(&cluster))
        .await?;
    attack(&cluster, "halves", "20 messages of 30 MiB, of which 8 MiB come", halves(&cluster)).await?;
    attack(&cluster, "huge headers", "headers of 1 MiB", huge_headers(&client)).await?;
    let idle = idle_connections(&cluster, MANY_CONNECTIONS);
    attack(&cluster, "idle connections", "2,000 connections that say nothing", idle).await?;
    attack(&cluster, "rubbish", "5,000 connections with 200 random bytes", rubbish(&cluster)).await?;
    attack(&cluster, "reflection abuse", "1,000 requests of unknown files with long names", reflection(&client))
        .await?;
    attack(&cluster, "oversize message", "a picture of 40 MiB", oversize(&client)).await?;
    attack(&cluster, "oversize field", "an attribute's name of 8 MiB", long_name(&client)).await?;
    attack(&cluster, "too many parts", "a batch of 100,000 empty queries", many_queries(&client)).await?;
    attack(&cluster, "deep filter", "filters 9, 60 and 100,000 levels deep", deep_filters(&cluster)).await?;
    attack(&cluster, "replay", "a request id again, and for other images", replay(&client)).await?;
    attack(&cluster, "nested profiles", "20 pictures with profiles in profiles", nested(&client)).await?;
    if let Some(folder) = shared_data("malformed/synthetic") {
        for (name, sent, file) in BOMBS {
            attack(&cluster, name, sent, bomb(&client, &folder.join(file))).await?;
        }
        attack(&cluster, "hostile pictures", "all synthetic ones, 8 at once", hostile(&client, &folder)).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a minute"]
async fn ten_thousand_idle_connections_do_not_hurt_the_neighbour() -> Result<()> {
    allow_many_connections()?;
    let connections = CONNECTIONS.to_string();
    let options = ClusterOptions::single("idle").coordinator_flags(&["--max-connections", &connections]);
    let cluster = Cluster::start(options).await?;
    prepared(&cluster).await?;
    let idle = idle_connections(&cluster, MOST_CONNECTIONS);
    attack(&cluster, "idle connections", "10,000 connections that say nothing", idle).await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cost_themselves_and_not_the_neighbour() -> Result<()> {
    let folder = target_folder()?.join("cluster-logs/strangers-jwks");
    std::fs::create_dir_all(&folder)?;
    let jwks = folder.join("jwks.json");
    std::fs::write(&jwks, JWKS)?;
    let jwks = jwks.display().to_string();
    let flags = ["--jwt-issuer", "https://id", "--jwt-audience", "omma", "--jwt-jwks", &jwks];
    let cluster = Cluster::start(ClusterOptions::single("strangers").secured().coordinator_flags(&flags)).await?;
    prepared(&cluster).await?;
    attack(
        &cluster,
        "client at the peer port",
        "300 connections: plaintext, TLS without a certificate",
        peer_port(&cluster),
    )
    .await?;
    attack(&cluster, "expired certificate", "100 handshakes with a node's, over since yesterday", expired(&cluster))
        .await?;
    attack(&cluster, "wrong name", "a node's certificate for another host, dialled 100 times", wrong_name(&cluster))
        .await?;
    attack(&cluster, "alg none", "500 calls with an unsigned token of all roles", unsigned(&cluster)).await?;
    Ok(())
}

/// A client of a cluster that knows one picture.
async fn prepared(cluster: &Cluster) -> Result<Client> {
    let client = cluster.client()?;
    client.create(COLLECTION, None).await?;
    let known = jpeg(&draw(1, 200, 200), 90)?;
    client.store(COLLECTION, vec![picture_image("known", known)], PATIENCE).await?;
    note!(
        "| attack | what was sent | what came back | time | memory at peak, coordinator and node | neighbour's slowest search |"
    );
    note!("|---|---|---|---|---|---|");
    Ok(client)
}

/// This process needs a file for each connection.
fn allow_many_connections() -> Result<()> {
    // The shell's own: std cannot, and this crate forbids unsafe code.
    let command = format!("prlimit --pid {} --nofile={}:", std::process::id(), MOST_CONNECTIONS + 5_000);
    let raised = std::process::Command::new("sh").args(["-c", &command]).output()?;
    ensure!(raised.status.success(), "cannot open enough files: {}", String::from_utf8_lossy(&raised.stderr));
    Ok(())
}

/// Makes an attack beside a polite client, and prints its row.
async fn attack(cluster: &Cluster, name: &str, sent: &str, work: impl Future<Output = Result<String>>) -> Result<()> {
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
    note!("| {name} | {sent} | {outcome} | {took:.1?} | {} and {} MiB | {slowest:.0?} |", peak.0, peak.1);
    ensure!(slowest < MOST_WAIT, "{name}: the neighbour waited {slowest:?}");
    ensure!(peak.0 < COORDINATOR_MEMORY && peak.1 < NODE_MEMORY, "{name}: {peak:?} MiB");
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
async fn halves(cluster: &Cluster) -> Result<String> {
    let half = || -> Result<_> {
        let head = [&[0][..], &(30u32 << 20).to_be_bytes()].concat();
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
    ensure!(refused >= 20 - ARRIVING / 8, "{refused} refused, {answers:?}");
    Ok(format!("{refused} refused with `RESOURCE_EXHAUSTED`, to keep to {ARRIVING} MiB"))
}

async fn huge_headers(client: &Client) -> Result<String> {
    let mut request = Request::new(GetClusterStatusRequest {});
    request.metadata_mut().insert("x-large", MetadataValue::try_from("x".repeat(1 << 20))?);
    let mut cluster = ClusterServiceClient::new(client.channel());
    let status = cluster.get_cluster_status(request).await.err().context("1 MiB of headers were taken")?;
    Ok(format!("{:?}", status.code()))
}

async fn idle_connections(cluster: &Cluster, many: usize) -> Result<String> {
    let mut open = Vec::new();
    for _ in 0..many {
        open.push(TcpStream::connect(cluster.address()?).await?);
    }
    // First come the server's settings; then, for most, the end.
    let ended = open.into_iter().map(|mut tcp| async move {
        let mut bytes = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut bytes)).await.is_ok()
    });
    let closed = futures::future::join_all(ended).await.into_iter().filter(|ended| *ended).count();
    ensure!(closed >= many - CONNECTIONS, "only {closed} were closed");
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

/// One that is too deep for the server, one that is so for Protobuf, and one for whoever would walk it.
async fn deep_filters(cluster: &Cluster) -> Result<String> {
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

async fn bomb(client: &Client, file: &std::path::Path) -> Result<String> {
    let picture = Bytes::from(std::fs::read(file)?);
    let put = |_| client.put(COLLECTION, vec![picture_image("h", picture.clone())]);
    let answers: Vec<_> = futures::stream::iter(0..50).map(put).buffer_unordered(8).collect().await;
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for answer in answers {
        let refused = match answer {
            Ok(answer) => answer.results.into_iter().find_map(|r| r.error.filter(|e| e.code != 0)).map(|e| e.message),
            Err(status) => {
                ensure!(status.code() == Code::InvalidArgument, "{status:?}");
                Some(status.message().to_owned())
            }
        };
        *seen.entry(refused.unwrap_or_else(|| "stored".into())).or_default() += 1;
    }
    Ok(seen.into_iter().map(|(what, n)| format!("{n} × {what}")).collect::<Vec<_>>().join("; "))
}

async fn nested(client: &Client) -> Result<String> {
    let mut answers = Vec::new();
    for (what, picture) in nested_profiles()? {
        let put = |_| client.put(COLLECTION, vec![picture_image("n", picture.clone())]);
        let (mut stored, mut refused) = (0, 0);
        for answer in futures::stream::iter(0..4).map(put).buffer_unordered(2).collect::<Vec<_>>().await {
            match answer {
                Ok(answer) => match answer.results.iter().all(|r| r.error.as_ref().is_none_or(|e| e.code == 0)) {
                    true => stored += 1,
                    false => refused += 1,
                },
                Err(status) if status.code() == Code::InvalidArgument => refused += 1,
                Err(status) => bail!("{what}: {status:?}"),
            }
        }
        answers.push(format!("{what}: {stored} stored, {refused} refused"));
    }
    Ok(answers.join("; "))
}

/// What is no TLS, and TLS of somebody without a certificate of the cluster.
async fn peer_port(cluster: &Cluster) -> Result<String> {
    let (secured, node) = (cluster.secured()?, cluster.shard_address(0)?);
    for n in 0..300 {
        let channel = if n % 2 == 0 { channel(node)? } else { secured.channel(node)? };
        let answer = MetadataServiceClient::new(channel).discover(DiscoverRequest {}).await;
        ensure!(answer.as_ref().is_err_and(|e| reason_of(e).is_none()), "a client was served: {answer:?}");
    }
    Ok("the handshake fails".into())
}

async fn expired(cluster: &Cluster) -> Result<String> {
    let secured = cluster.secured()?;
    let over = SystemTime::now() - Duration::from_secs(2 * 86_400);
    secured.issue_for("expired", Some(PeerKind::Shard), "127.0.0.1", over)?;
    for _ in 0..100 {
        let channel = secured.peer_channel("expired", cluster.shard_address(0)?)?;
        let answer = MetadataServiceClient::new(channel).discover(DiscoverRequest {}).await;
        ensure!(answer.as_ref().is_err_and(|e| reason_of(e).is_none()), "an expired certificate was taken: {answer:?}");
    }
    Ok("the handshake fails".into())
}

/// Somebody with a certificate of the cluster's authority stands where a node should be.
async fn wrong_name(cluster: &Cluster) -> Result<String> {
    let secured = cluster.secured()?;
    secured.issue_for("other", Some(PeerKind::Shard), "shard-9.example", SystemTime::now())?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let mut incoming = Incoming::over(listener, Security::peers(&secured.peer("other"))?, ConnectionLimits::default());
    let served = async {
        let _ = incoming.next().await;
        anyhow::bail!("a node was dialled that is another")
    };
    let dialled = async {
        for _ in 0..100 {
            let channel = secured.peer_channel("coordinator", &address)?;
            let answer = MetadataServiceClient::new(channel).discover(DiscoverRequest {}).await;
            ensure!(answer.is_err(), "{answer:?}");
        }
        Ok("whoever dials ends the handshake".to_owned())
    };
    tokio::select! {
        served = served => served,
        dialled = dialled => dialled,
    }
}

async fn unsigned(cluster: &Cluster) -> Result<String> {
    let (secured, address) = (cluster.secured()?, cluster.address()?);
    let stranger = Client::with_key(secured.channel(address)?, UNSIGNED)?;
    for _ in 0..500 {
        let refused = stranger.status().await.err().context("an unsigned token was taken")?;
        ensure!(reason_of(&refused) == Some(Reason::Unauthenticated), "{refused:?}");
    }
    Ok("`UNAUTHENTICATED`".into())
}
