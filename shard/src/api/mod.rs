//! gRPC in: what coordinators and peers may ask of this node.

mod access;
mod backup;
mod beat;
mod checks;
mod errors;
mod metadata;
mod placement;
mod put;
pub(crate) mod raft;
mod shard;
mod slots;

use std::sync::Arc;

use omma_common::limits::{MAX_DECODED_BYTES, MAX_MESSAGE_BYTES};
use omma_common::rpc::{RpcLayer, Traces};
use omma_common::serve::{Arriving, Incoming, Security, Track};
use omma_common::shutdown::Shutdown;
use omma_proto::internal::v1::metadata_service_server::MetadataServiceServer;
use omma_proto::internal::v1::placement_service_server::PlacementServiceServer;
use omma_proto::internal::v1::shard_service_server::ShardServiceServer;
use tokio::net::TcpListener;
use tonic::service::Routes;
use tonic::transport::Server;
use tower::Layer;

use crate::node::Node;

/// Calls that a peer may have given up before this node looked at them. More end its connection, and with it all calls on
/// it; a node that stood still for a second finds many. h2's own bound, 20, is for servers of strangers (CVE-2023-44487).
const GIVEN_UP_AT_ONCE: usize = 4096;

/// Bytes of one message once it is decoded: what a coordinator took may have grown on its way.
const LARGEST_DECODED: usize = 2 * MAX_DECODED_BYTES;

/// The services cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The transport failed.
    #[error("the gRPC server failed: {0}")]
    Transport(#[from] tonic::transport::Error),
    /// The service descriptions are not valid.
    #[error("cannot offer reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// Serves `node` until the shutdown has begun and the calls under way are answered.
pub(crate) async fn serve(
    listener: TcpListener,
    security: Security,
    node: Arc<Node>,
    shutdown: Shutdown,
) -> Result<(), ServeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ShardServiceServer<shard::ShardApi>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(omma_proto::DESCRIPTORS)
        .build_v1()?;
    let shards = ShardServiceServer::new(shard::ShardApi { node: node.clone() });
    let metadata = MetadataServiceServer::new(metadata::MetadataApi { node: node.clone() });
    let placement = PlacementServiceServer::new(placement::PlacementApi { node: node.clone() });
    let checked = access::ByKind { ask: !matches!(security, Security::Plain) };
    let connections = node.config.connections;
    let incoming = Incoming::over(listener, security, connections);
    let routes = Routes::new(health_service)
        .add_service(reflection)
        .add_service(shards.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(metadata.max_decoding_message_size(MAX_MESSAGE_BYTES))
        .add_service(
            placement.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES),
        )
        .add_service(raft::RaftApi::service(node.host.clone()))
        .prepare();
    // A trace begins where a client asks, never here.
    let calls = RpcLayer::new(Traces::Continue);
    if let Some(in_process) = &node.config.in_process {
        in_process.open(calls.layer(routes.clone()));
    }
    Server::builder()
        // Pictures in flight fill windows quickly; the defaults are for small messages.
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(32 << 20)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(10)))
        // As the coordinator does.
        .max_connection_age(connections.age)
        .http2_max_pending_accept_reset_streams(Some(GIVEN_UP_AT_ONCE))
        .layer(Track)
        .layer(calls)
        .layer(checked)
        .layer(Arriving::each(LARGEST_DECODED))
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, shutdown.begun())
        .await?;
    Ok(())
}
