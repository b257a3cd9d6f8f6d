//! Serves the public API on a listener until the shutdown.

use std::sync::Arc;
use std::time::Duration;

use omma_common::admin::Subject;
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_common::rpc::{RpcLayer, Traces};
use omma_common::serve::{Arriving, ConnectionLimits, Incoming, Track};
use omma_common::shutdown::Shutdown;
use omma_common::tls::args::{SecurityError, peer_dialer, public_port};
use omma_proto::v1::backup_service_server::BackupServiceServer;
use omma_proto::v1::cluster_service_server::ClusterServiceServer;
use omma_proto::v1::collection_service_server::CollectionServiceServer;
use omma_proto::v1::image_service_server::ImageServiceServer;
use omma_proto::v1::search_service_server::SearchServiceServer;
use tokio::net::TcpListener;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use crate::access::{Access, AccessError, Guarded, Share, Shared, Shares};
use crate::api::{Api, Coordinator, oversize};
use crate::config::CoordinatorConfig;
use crate::metrics::REFUSED;
use crate::node_client::Nodes;
use crate::routing::Routing;

/// Pings to clients, so that one that vanished does not hold its streams for ever.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Calls at once on one connection; clients wait beyond.
const MAX_STREAMS: u32 = 512;
/// Bytes that may come of one request, and over one connection, before they are read. Nobody counts them. At 50 ms there and
/// back they let 10 MB/s through for one request and 40 for a connection: a picture waits longer for its encoder.
const STREAM_WINDOW: u32 = 512 << 10;
const CONNECTION_WINDOW: u32 = 2 << 20;
/// How often health is looked at.
const HEALTH_EVERY: Duration = Duration::from_millis(100);
/// Bytes of all headers of one request. A token has up to 8 KiB.
const MAX_HEADERS: u32 = 16 << 10;

/// Why the coordinator ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No shard node was named.
    #[error("no shard node is named: the coordinator would never find a cluster")]
    NoShardNodes,
    /// Ports or connections would be open to everybody, or certificates cannot be used.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// Credentials cannot be checked.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// The listener is none.
    #[error("the listening address cannot be read: {0}")]
    Listen(#[from] std::io::Error),
    /// The connections could not be served.
    #[error("cannot serve: {0}")]
    Serve(#[from] tonic::transport::Error),
    /// The reflection service could not read the protocol's descriptors.
    #[error("the protocol's descriptors cannot be read: {0}")]
    Descriptors(#[from] tonic_reflection::server::Error),
}

/// The names that health is told for; "" is the process as a whole.
const SERVICES: [&str; 6] = [
    "",
    <CollectionServiceServer<Api> as NamedService>::NAME,
    <ImageServiceServer<Api> as NamedService>::NAME,
    <SearchServiceServer<Api> as NamedService>::NAME,
    <ClusterServiceServer<Api> as NamedService>::NAME,
    <BackupServiceServer<Api> as NamedService>::NAME,
];

/// Serves the public API until `shutdown` begins, then lets requests end within [`CoordinatorConfig::drain`].
///
/// Serves before it knows a cluster: requests are answered `CLUSTER_FORMING` and health says `NOT_SERVING` until then,
/// and whenever no shard node has answered for a while.
pub async fn run(listener: TcpListener, config: CoordinatorConfig, shutdown: Shutdown) -> Result<(), RunError> {
    if config.shard_nodes.is_empty() {
        return Err(RunError::NoShardNodes);
    }
    let security = public_port(config.public_tls.as_ref(), config.plaintext, listener.local_addr()?)?;
    let dialer = peer_dialer(config.peer_tls.as_ref(), config.plaintext, &config.shard_nodes)?;
    let nodes = Nodes::new(config.limits.calls_per_node, dialer, config.in_process.clone());
    let routing = Routing::new(config.shard_nodes.clone(), nodes);
    let access = access(&config, &listener)?;
    let limits = config.limits;
    let connections = ConnectionLimits { unread: limits.idle_stream, ..config.connections };
    let share = Share { requests: limits.requests_per_client, rate: limits.rate_per_client, time: limits.request };
    let most_bytes = limits.sizes.max_message_bytes;
    let coordinator = Arc::new(Coordinator::new(routing, config.limits, access.clone(), shutdown.clone()));
    crate::metrics::init();
    let subject: Arc<dyn Subject> = coordinator.clone();
    config.vitals.show(&subject);
    let (health, health_service) = tonic_health::server::health_reporter();
    tell(&health, ServingStatus::NotServing).await;
    let api = Api(Arc::clone(&coordinator));
    macro_rules! limited {
        ($server:ident) => {
            $server::new(api.clone()).max_decoding_message_size(most_bytes).max_encoding_message_size(MAX_MESSAGE_BYTES)
        };
    }
    let serve = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        // Tells clients; tonic's grace would leave that out. `Incoming` sees to the end.
        .max_connection_age(config.connections.age)
        .max_concurrent_streams(MAX_STREAMS)
        .http2_max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .layer(Track)
        // Outside of what refuses, so that refusals are counted.
        .layer(RpcLayer::new(Traces::Begin))
        .layer(Guarded(access))
        .layer(Shared(Shares::new(share)))
        .layer(Arriving::new(config.limits.arriving_bytes, REFUSED.with(&["arriving"])))
        .layer(tower::util::MapResponseLayer::new(move |answer| oversize::explain(answer, most_bytes)))
        .add_service(health_service)
        .add_service(reflection()?)
        .add_service(limited!(CollectionServiceServer))
        .add_service(limited!(ImageServiceServer))
        .add_service(limited!(SearchServiceServer))
        .add_service(limited!(ClusterServiceServer))
        .add_service(limited!(BackupServiceServer))
        .serve_with_incoming_shutdown(Incoming::over(listener, security, connections), shutdown.clone().begun());

    let drained = drained(&config, &shutdown);
    let alongside = async {
        tokio::join!(
            coordinator.routing.poll(config.poll_interval, shutdown.clone()),
            tell_health(&coordinator, &health)
        );
        std::future::pending::<()>().await;
    };
    tokio::select! {
        served = serve => Ok(served?),
        () = drained => {
            tracing::warn!(after = ?config.drain, "requests were still under way at the end of the shutdown");
            Ok(())
        }
        () = alongside => Ok(()),
    }
}

/// Who may call. Says so if everybody may, from other machines too.
fn access(config: &CoordinatorConfig, listener: &TcpListener) -> Result<Access, RunError> {
    let access = Access::new(&config.access)?;
    if !access.asks() && !listener.local_addr()?.ip().is_loopback() {
        tracing::warn!(
            "everybody who reaches this port may read, write and delete everything: --api-keys FILE asks for keys"
        );
    }
    Ok(access)
}

/// The end of the time that requests have to end in.
async fn drained(config: &CoordinatorConfig, shutdown: &Shutdown) {
    shutdown.clone().begun().await;
    config.vitals.stopping();
    tokio::time::sleep(config.drain).await;
}

async fn tell(health: &HealthReporter, status: ServingStatus) {
    for name in SERVICES {
        health.set_service_status(name, status).await;
    }
}

/// Serving while requests can be forwarded; not serving once the shutdown has begun.
async fn tell_health(coordinator: &Coordinator, health: &HealthReporter) {
    let mut told = false;
    loop {
        let stops = coordinator.shutdown.has_begun();
        let serves = !stops && coordinator.routing.useless().is_none();
        if std::mem::replace(&mut told, serves) != serves {
            let status = if serves { ServingStatus::Serving } else { ServingStatus::NotServing };
            tell(health, status).await;
        }
        if stops {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(HEALTH_EVERY) => {}
            () = coordinator.shutdown.clone().begun() => {}
        }
    }
}

/// Reflection of what clients may call: the public API and health.
fn reflection() -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>,
    tonic_reflection::server::Error,
> {
    let mut builder = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(omma_proto::DESCRIPTORS)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
    for name in SERVICES.into_iter().filter(|name| !name.is_empty()) {
        builder = builder.with_service_name(name);
    }
    builder
        .with_service_name("grpc.health.v1.Health")
        .with_service_name("grpc.reflection.v1.ServerReflection")
        .build_v1()
}
