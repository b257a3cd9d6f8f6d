//! What a node asks of its peers outside of Raft: who they are, and to be let in.

use std::time::Duration;

use omma_common::deadline::Deadline;
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_common::tls::Dialer;
use omma_proto::internal::v1::metadata_service_client::MetadataServiceClient;
use omma_proto::internal::v1::placement_service_client::PlacementServiceClient;
use omma_proto::internal::v1::shard_service_client::ShardServiceClient;
use omma_proto::internal::v1::{
    ChangeMembersRequest, DiscoverRequest, DiscoverResponse, DropCollectionRequest, GetDigestsRequest,
    GetDigestsResponse, GetMetadataRequest, JoinRequest, JoinResponse, Metadata, ObserveNodeRequest,
    ObserveNodeResponse, Target,
};
use tonic::Status;
use tonic::transport::Channel;

/// Each of these calls is small: a peer that takes longer is as good as gone.
const PATIENCE: Duration = Duration::from_secs(2);

async fn connect(dialer: &Dialer, address: &str) -> Result<Channel, Status> {
    let endpoint = dialer.endpoint(address).map_err(|e| Status::invalid_argument(e.to_string()))?;
    let connected = endpoint.connect_timeout(PATIENCE).connect_with_connector(dialer.clone()).await;
    connected.map_err(|e| Status::unavailable(format!("cannot reach {address}: {}", with_causes(&e))))
}

/// The whole of it: "transport error" alone does not tell a wrong certificate from a dead node.
fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

pub(crate) async fn discover(dialer: &Dialer, address: &str) -> Result<DiscoverResponse, Status> {
    let mut client = MetadataServiceClient::new(connect(dialer, address).await?);
    let request = Deadline::after(PATIENCE).request(DiscoverRequest {});
    Ok(client.discover(request).await?.into_inner())
}

/// A node's copy of the metadata; linearizable, of its leader only.
pub(super) async fn metadata(dialer: &Dialer, address: &str, linearizable: bool) -> Result<Metadata, Status> {
    let mut client = MetadataServiceClient::new(connect(dialer, address).await?);
    let request =
        Deadline::after(PATIENCE).request(GetMetadataRequest { linearizable, ..GetMetadataRequest::default() });
    let metadata = client.get_metadata(request).await?.into_inner().metadata;
    metadata.ok_or_else(|| Status::unavailable("it has no metadata"))
}

pub(super) async fn join(dialer: &Dialer, address: &str, request: JoinRequest) -> Result<JoinResponse, Status> {
    let mut client = MetadataServiceClient::new(connect(dialer, address).await?);
    // The metadata leader may ask this node back who it is.
    let request = Deadline::after(PATIENCE * 2).request(request);
    Ok(client.join(request).await?.into_inner())
}

pub(super) async fn drop_collection(dialer: &Dialer, address: &str, target: Target) -> Result<(), Status> {
    let mut client = ShardServiceClient::new(connect(dialer, address).await?);
    let request = Deadline::after(PATIENCE).request(DropCollectionRequest { target: Some(target) });
    client.drop_collection(request).await.map(drop)
}

pub(super) async fn digests(dialer: &Dialer, address: &str, group_id: u32) -> Result<GetDigestsResponse, Status> {
    let mut client = ShardServiceClient::new(connect(dialer, address).await?);
    let request = Deadline::after(PATIENCE).request(GetDigestsRequest { group_id });
    Ok(client.get_digests(request).await?.into_inner())
}

/// For more calls than one.
pub(super) async fn placement(dialer: &Dialer, address: &str) -> Result<PlacementServiceClient<Channel>, Status> {
    let client = PlacementServiceClient::new(connect(dialer, address).await?);
    Ok(client.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES))
}

/// How a node is and sees its groups.
pub(super) async fn observe(dialer: &Dialer, address: &str) -> Result<ObserveNodeResponse, Status> {
    let mut client = PlacementServiceClient::new(connect(dialer, address).await?);
    Ok(client.observe_node(Deadline::after(PATIENCE).request(ObserveNodeRequest {})).await?.into_inner())
}

/// Has a group's leader change its members.
pub(super) async fn change_members(dialer: &Dialer, address: &str, change: ChangeMembersRequest) -> Result<(), Status> {
    let mut client = PlacementServiceClient::new(connect(dialer, address).await?);
    client.change_members(Deadline::after(PATIENCE * 2).request(change)).await.map(drop)
}
