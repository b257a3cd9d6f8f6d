//! Connections: what one address may have of them, and how long they live.

use std::time::Duration;

use omma_common::error::{Reason, reason_of};
use omma_proto::v1 as pb;
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::image_service_client::ImageServiceClient;
use tokio::net::TcpSocket;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status, Streaming};

use crate::support::Cluster;

/// A connection from `source`, which is this machine, too.
async fn from(cluster: &Cluster, source: &'static str) -> Channel {
    let address = cluster.address.trim_start_matches("http://").parse().unwrap();
    let connect = move |_: Uri| async move {
        let socket = TcpSocket::new_v4()?;
        socket.bind(source.parse().unwrap())?;
        Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(socket.connect(address).await?))
    };
    let endpoint = Endpoint::from_shared(cluster.address.clone()).unwrap();
    endpoint.connect_with_connector(tower::service_fn(connect)).await.unwrap()
}

/// A stream that is open and says nothing.
async fn busy(channel: Channel) -> Result<Streaming<pb::IngestImagesResponse>, Status> {
    let silent = tokio_stream::pending::<pb::IngestImagesRequest>();
    Ok(ImageServiceClient::new(channel).ingest_images(silent).await?.into_inner())
}

async fn status(channel: Channel) -> Result<(), Status> {
    ClusterServiceClient::new(channel).get_cluster_status(pb::GetClusterStatusRequest {}).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_cannot_take_all_connections() {
    let cluster = Cluster::start_with(|config| {
        config.connections.connections = 4;
        config.connections.per_address = 50;
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..10 {
        held.push(busy(from(&cluster, "127.0.0.2:0").await).await);
    }
    let served = held.iter().filter(|stream| stream.is_ok()).count();
    assert_eq!(served, 2, "more than half of them for one address");
    let other = from(&cluster, "127.0.0.3:0").await;
    status(other.clone()).await.expect("there is room for another address");
    status(from(&cluster, "127.0.0.2:0").await).await.expect_err("it has its share, and all of it is busy");
    status(other).await.expect("the other one is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_balancer_one_address_may_have_all() {
    let cluster = Cluster::start_with(|config| {
        config.connections.connections = 4;
        config.connections.per_address = 100;
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(busy(from(&cluster, "127.0.0.2:0").await).await.unwrap());
    }
    status(from(&cluster, "127.0.0.3:0").await).await.expect_err("all are busy");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_on_when_a_connection_is_old_is_told_and_goes_on_over_another() {
    let cluster = Cluster::start_with(|config| config.connections.age = Duration::from_millis(500)).await;
    let channel = Endpoint::from_shared(cluster.address.clone()).unwrap().connect_lazy();
    let begun = std::time::Instant::now();
    for _ in 0..2 {
        // The first call after the end of a connection may fail with it.
        let mut stream = match busy(channel.clone()).await {
            Ok(stream) => stream,
            Err(ended) if ended.code() == Code::Cancelled => busy(channel.clone()).await.unwrap(),
            Err(other) => panic!("{other:?}"),
        };
        let ended = stream.message().await.unwrap_err();
        assert_eq!(reason_of(&ended), Some(Reason::ShuttingDown), "{ended:?}");
    }
    // The second was on a connection of its own: it had all the time that a new one has.
    assert!(begun.elapsed() >= Duration::from_millis(2 * (500 + 1000)), "{:?}", begun.elapsed());
}

/// A client that leaves no window for answers is not busy for longer than a stream may be silent.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_read_holds_neither_its_connection_nor_its_place() {
    let cluster = Cluster::start_with(|config| {
        config.connections.connections = 1;
        config.connections.per_address = 100;
        config.limits.requests_per_client = 1;
        config.limits.idle_stream = Duration::from_secs(1);
    })
    .await;
    let closed = Endpoint::from_shared(cluster.address.clone()).unwrap().initial_stream_window_size(0).connect_lazy();
    let mut unread = tokio::spawn(status(closed.clone()));
    let another = async || status(from(&cluster, "127.0.0.3:0").await).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!unread.is_finished());
    another().await.expect_err("the only connection is busy");
    let refused = status(closed).await.map_err(|refused| reason_of(&refused));
    assert_eq!(refused, Err(Some(Reason::RateLimited)), "its only place is taken");
    let begun = std::time::Instant::now();
    while another().await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(8), "the connection is busy for ever");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    (&mut unread).await.unwrap().expect_err("its connection gave way");
}
