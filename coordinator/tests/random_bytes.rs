//! Random bytes to every call of the public port: each is answered with a status, and nothing panics.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub, dead_code)]

#[path = "support/random.rs"]
mod random;
#[path = "support/raw.rs"]
mod raw;
mod support;

use std::sync::Mutex;
use std::time::Duration;

use prost::Message;
use rand::SeedableRng;
use rand::rngs::StdRng;
use random::message;
use raw::Raw;
use support::Cluster;
use tonic::transport::Endpoint;
use tonic::{Code, Request, Status};

/// Messages for each call.
const TRIES: usize = 150;

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
