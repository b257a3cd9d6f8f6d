//! The metadata service: the cluster map and the collections, and joining.

use std::sync::Arc;

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::tls::Dialer;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::metadata_outcome::Outcome;
use omma_proto::internal::v1::metadata_service_server::MetadataService;
use omma_proto::internal::v1::*;
use prost::Message;
use tonic::{Request, Response, Status};

use super::errors;
use crate::group::Barrier;
use crate::node::{Node, peers};

pub(super) struct MetadataApi {
    pub(super) node: Arc<Node>,
}

#[tonic::async_trait]
impl MetadataService for MetadataApi {
    async fn get_metadata(
        &self,
        request: Request<GetMetadataRequest>,
    ) -> Result<Response<GetMetadataResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        if request.linearizable {
            self.node.metadata_replica.read_barrier(Barrier::Linearizable, deadline).await.map_err(ApiError::from)?;
        }
        let metadata = self.node.metadata.current();
        if metadata.cluster_id.is_empty() {
            return Err(forming().into());
        }
        let newer = metadata.version > request.known_version;
        Ok(Response::new(GetMetadataResponse {
            metadata: newer.then(|| (*metadata).clone()),
            leaders: self.node.leader_hints(),
        }))
    }

    async fn propose_metadata(
        &self,
        request: Request<ProposeMetadataRequest>,
    ) -> Result<Response<ProposeMetadataResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let command = request.into_inner().command.ok_or_else(|| errors::missing("command"))?;
        check_command(&command)?;
        let outcome = self.propose(command, deadline).await?;
        Ok(Response::new(ProposeMetadataResponse { outcome: Some(outcome) }))
    }

    async fn discover(&self, _: Request<DiscoverRequest>) -> Result<Response<DiscoverResponse>, Status> {
        Ok(Response::new(self.node.discovery().await))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let request = request.into_inner();
        let node = request.node.ok_or_else(|| errors::missing("node"))?;
        let metadata = self.node.metadata.current();
        check_join(&metadata, &request.cluster_id, request.encoder_space.as_ref())?;
        check_address(&self.node.dialer, &metadata, &node).await?;
        // The metadata leader makes it a learner when it sees that it is none.
        let put = MetadataCommand { command: Some(Command::PutNode(PutNode { node: Some(node) })) };
        match self.propose(put, deadline).await?.outcome {
            Some(Outcome::Refusal(why)) if why == MetadataRefusal::NodeRemoved as i32 => return Err(removed().into()),
            Some(Outcome::Refusal(why)) => {
                let why = MetadataRefusal::try_from(why).unwrap_or_default();
                let text = format!("the metadata leader refused the node: {why:?}");
                return Err(ApiError::new(Reason::InvalidArgument, text).into());
            }
            _ => {}
        }
        Ok(Response::new(JoinResponse { cluster_id: metadata.cluster_id.clone() }))
    }
}

impl MetadataApi {
    async fn propose(&self, command: MetadataCommand, deadline: Deadline) -> Result<MetadataOutcome, ApiError> {
        let proposed = self.node.metadata_replica.propose(command.encode_to_vec().into(), deadline).await?;
        MetadataOutcome::decode(proposed.outcome)
            .map_err(|e| ApiError::new(Reason::Internal, format!("a metadata outcome was not understood: {e}")))
    }
}

/// Rules are raised by the metadata leader alone: too high a number would end every replica.
fn check_command(command: &MetadataCommand) -> Result<(), ApiError> {
    match command.command {
        Some(Command::RaiseRules(_)) => Err(ApiError::field("command", "is none that others than the nodes give")),
        _ => Ok(()),
    }
}

fn forming() -> ApiError {
    ApiError::new(Reason::ClusterForming, "the cluster is not formed yet: it waits for all nodes of the peer list")
}

fn removed() -> ApiError {
    let text = "this node was removed from the cluster, or another has taken its place: to use it again, stop it, empty \
                its data folder and start it as a new node";
    ApiError::new(Reason::NodeRemoved, text)
}

/// A new node at the address of another has lost that one's data, and takes its place; unless the other one is still
/// there.
async fn check_address(
    dialer: &Dialer,
    metadata: &Metadata,
    node: &omma_proto::internal::v1::Node,
) -> Result<(), ApiError> {
    let clashes = metadata.nodes.iter().any(|n| n.address == node.address && n.node_id != node.node_id);
    if !clashes {
        return Ok(());
    }
    match peers::discover(dialer, &node.address).await {
        Ok(there) if there.node_id == node.node_id => Ok(()),
        Ok(there) => {
            let text = format!(
                "node {} answers at {}, not node {}: give each node its own --advertise",
                there.node_id, node.address, node.node_id
            );
            Err(ApiError::new(Reason::AddressInUse, text))
        }
        Err(status) => {
            let text = format!("cannot check who is at {}: {}", node.address, status.message());
            Err(ApiError::new(Reason::NodeUnreachable, text))
        }
    }
}

/// Whether a node may become part of this cluster.
fn check_join(
    metadata: &Metadata,
    cluster_id: &str,
    encoder_space: Option<&omma_proto::v1::VectorSpace>,
) -> Result<(), ApiError> {
    if metadata.cluster_id.is_empty() {
        return Err(forming());
    }
    if !cluster_id.is_empty() && cluster_id != metadata.cluster_id {
        let message = format!("this is cluster {}, not {cluster_id}: check the peer list", metadata.cluster_id);
        return Err(ApiError::new(Reason::WrongCluster, message));
    }
    if encoder_space != metadata.encoder_space.as_ref() {
        let (ours, theirs) = (id(metadata.encoder_space.as_ref()), id(encoder_space));
        let message =
            format!("the cluster's encoder is {ours:?}, the node's {theirs:?}: start it with the same --model");
        return Err(ApiError::new(Reason::VectorSpaceMismatch, message));
    }
    Ok(())
}

fn id(space: Option<&omma_proto::v1::VectorSpace>) -> &str {
    space.map_or("", |s| &s.id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::v1::VectorSpace;

    #[test]
    fn nobody_else_raises_the_rules() {
        let of = |command| check_command(&MetadataCommand { command: Some(command) }).err().map(|e| e.reason);
        assert_eq!(of(Command::RaiseRules(RaiseRules { rules: 1 })), Some(Reason::InvalidArgument));
        assert_eq!(of(Command::SetMovesPaused(SetMovesPaused { paused: true })), None);
    }

    #[test]
    fn only_a_node_of_the_same_kind_gets_in() {
        let space = Some(VectorSpace { id: "s".into(), dimension: 4 });
        let cluster = Metadata { cluster_id: "c".into(), encoder_space: space.clone(), ..Metadata::default() };
        let reason = |m: &Metadata, id: &str, s: Option<&VectorSpace>| check_join(m, id, s).err().map(|e| e.reason);
        assert_eq!(reason(&cluster, "", space.as_ref()), None);
        assert_eq!(reason(&cluster, "c", space.as_ref()), None);
        assert_eq!(reason(&cluster, "d", space.as_ref()), Some(Reason::WrongCluster));
        assert_eq!(reason(&cluster, "c", None), Some(Reason::VectorSpaceMismatch));
        assert_eq!(reason(&Metadata::default(), "", space.as_ref()), Some(Reason::ClusterForming));
    }
}
