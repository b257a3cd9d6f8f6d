//! Random bytes to every call of the public port: each is answered with a status, and nothing panics.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub, dead_code)]

mod support;

use std::sync::Mutex;
use std::time::Duration;

use bytes::{Buf, BufMut};
use prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use support::Cluster;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

/// Messages for each call.
const TRIES: usize = 150;

/// Bytes as they are.
#[derive(Debug, Default, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = usize;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = usize;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<usize>, Status> {
        let length = from.remaining();
        from.advance(length);
        Ok(Some(length))
    }
}

/// Paths of all calls, and whether each takes and gives streams.
fn calls() -> Vec<(String, bool)> {
    let sets =
        [omma_proto::DESCRIPTORS, tonic_health::pb::FILE_DESCRIPTOR_SET, tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET];
    let mut calls = Vec::new();
    for set in sets {
        for file in prost_types::FileDescriptorSet::decode(set).unwrap().file {
            for service in file.service.iter().filter(|_| file.package() != "omma.internal.v1") {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    calls.push((path, method.server_streaming()));
                }
            }
        }
    }
    calls
}

/// Random bytes; half of them look like a message: a few fields of random numbers, kinds and lengths.
fn message(rng: &mut StdRng) -> Vec<u8> {
    let mut bytes = Vec::new();
    if rng.random() {
        let length = rng.random_range(0..200);
        bytes.extend((0..length).map(|_| rng.random::<u8>()));
        return bytes;
    }
    for _ in 0..rng.random_range(1..6) {
        let (number, kind) = (rng.random_range(1..8u32), [0, 1, 2, 2, 2, 5][rng.random_range(0..6)]);
        bytes.push((number << 3 | kind) as u8);
        match kind {
            0 => prost::encoding::encode_varint(rng.random(), &mut bytes),
            1 => bytes.extend(rng.random::<[u8; 8]>()),
            5 => bytes.extend(rng.random::<[u8; 4]>()),
            _ => {
                // Names that exist, text, and messages within messages.
                let inner = match rng.random_range(0..4) {
                    0 => b"c".to_vec(),
                    1 => (0..rng.random_range(0..40)).map(|_| rng.random_range(32..127u8)).collect(),
                    _ => message(rng),
                };
                prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
                bytes.extend(inner);
            }
        }
    }
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_never_make_the_coordinator_panic() {
    static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let seed = std::env::var("OMMA_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("OMMA_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start().await;
    let channel = Endpoint::from_shared(cluster.address.clone()).unwrap().connect_lazy();
    let mut grpc = tonic::client::Grpc::new(channel);
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("{panic}");
        PANICS.lock().unwrap().push(panic.to_string());
    }));

    let calls = calls();
    assert!(calls.len() >= 15, "{calls:?}");
    let mut codes = std::collections::BTreeMap::<i32, usize>::new();
    for (path, streams) in &calls {
        for _ in 0..TRIES {
            grpc.ready().await.unwrap();
            let path = tonic::codegen::http::uri::PathAndQuery::try_from(path.as_str()).unwrap();
            let mut request = Request::new(tokio_stream::iter([message(&mut rng)]));
            request.set_timeout(Duration::from_secs(10));
            let answered = async {
                let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
                // Some calls would stream for ever.
                let most = if *streams { 1 } else { 2 };
                for _ in 0..most {
                    if answers.message().await?.is_none() {
                        break;
                    }
                }
                Ok::<_, Status>(())
            };
            let code = answered.await.map_or_else(|status| status.code(), |()| Code::Ok);
            *codes.entry(code as i32).or_default() += 1;
        }
    }
    let _ = std::panic::take_hook();
    let panics = PANICS.lock().unwrap().clone();
    assert!(panics.is_empty(), "seed {seed}: {panics:#?}");
    println!("codes and how often: {codes:?}");
    // It still serves, and what was wrong was said to be wrong.
    assert!(codes.get(&(Code::InvalidArgument as i32)).is_some_and(|n| *n > TRIES), "{codes:?}");
    assert!(!codes.contains_key(&(Code::Unavailable as i32)), "{codes:?}");
}
