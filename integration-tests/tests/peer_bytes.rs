//! Random bytes to every call of a shard node's port: each is answered with a status, and nothing panics.

#[path = "../../coordinator/tests/support/random.rs"]
mod random;
#[path = "../../coordinator/tests/support/raw.rs"]
mod raw;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use omma_integration_tests::client::{channel, picture_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, jpeg};
use omma_proto::v1::query::Target;
use prost::Message;
use prost_types::FileDescriptorSet;
use rand::SeedableRng;
use rand::rngs::StdRng;
use random::message;
use raw::Raw;
use tonic::{Code, Request, Status};

const COLLECTION: &str = "c";
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages for each call.
const TRIES: usize = 100;

/// Paths of all calls between nodes, and whether each gives a stream.
fn calls() -> Result<Vec<(String, bool)>> {
    let mut calls = Vec::new();
    for file in FileDescriptorSet::decode(omma_proto::DESCRIPTORS)?.file {
        for service in file.service.iter().filter(|_| file.package() == "omma.internal.v1") {
            for method in &service.method {
                let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                calls.push((path, method.server_streaming()));
            }
        }
    }
    Ok(calls)
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bytes_never_make_a_shard_node_panic() -> Result<()> {
    let seed = std::env::var("OMMA_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("OMMA_TEST_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let cluster = Cluster::start(ClusterOptions::single("peer-bytes")).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, None).await?;
    let picture = jpeg(&draw(1, 200, 200), 90)?;
    client.store(COLLECTION, vec![picture_image("known", picture.clone())], PATIENCE).await?;

    let mut grpc = tonic::client::Grpc::new(channel(cluster.shard_address(0)?)?);
    let calls = calls()?;
    ensure!(calls.len() >= 16, "{calls:?}");
    let mut codes = BTreeMap::<i32, usize>::new();
    for (path, streams) in &calls {
        for _ in 0..TRIES {
            grpc.ready().await?;
            let mut request = Request::new(tokio_stream::iter([message(&mut rng)]));
            request.set_timeout(Duration::from_secs(10));
            let answered = async {
                let mut answers = grpc.streaming(request, path.parse().map_err(invalid)?, Raw).await?.into_inner();
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
    note!("random bytes to {} calls of a shard node: codes and how often: {codes:?}", calls.len());

    let node = cluster.shard_process(0)?;
    ensure!(node.ended().is_none(), "seed {seed}: the node ended\n{}", node.log_tail(4096));
    let log = node.log()?;
    let panics: Vec<_> = log.lines().filter(|line| line.contains("panicked")).collect();
    ensure!(panics.is_empty(), "seed {seed}: {panics:#?}");
    // No group has such a number, so what is stored is still served.
    let found = client.search(COLLECTION, Target::Picture(picture), 1).await?;
    ensure!(found.hits.first().is_some_and(|h| h.id == "known"), "seed {seed}: {found:?}");
    Ok(())
}

fn invalid(error: impl ToString) -> Status {
    Status::internal(error.to_string())
}
