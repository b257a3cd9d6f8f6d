//! `RaftService`: what the replicas of a group say to each other. All meaning is in `group/`.

use std::sync::Arc;

use futures::StreamExt;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::NodeId;
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_common::serve::ConnectInfo;
use omma_proto::internal::v1 as proto;
use proto::raft_service_server::{RaftService, RaftServiceServer};
use tonic::{Request, Response, Status, Streaming};

use crate::group::GroupHost;
use crate::group::inbound::AppendResponses;
use crate::group::peers::TO_NODE;

/// Serves the replicas of one host.
pub(crate) struct RaftApi {
    host: Arc<GroupHost>,
}

impl RaftApi {
    /// As a service for a tonic server.
    pub(crate) fn service(host: Arc<GroupHost>) -> RaftServiceServer<Self> {
        RaftServiceServer::new(Self { host })
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// The message, if it is meant for this node.
    fn mine<T>(&self, request: Request<T>) -> Result<T, Status> {
        let to = request.metadata().get(TO_NODE).and_then(|v| v.to_str().ok()?.parse::<NodeId>().ok());
        match to {
            Some(to) if to != self.host.node_id() => {
                let text = format!("node {to} is not here any more: this is node {}", self.host.node_id());
                Err(ApiError::new(Reason::NodeUnreachable, text).into())
            }
            _ => Ok(request.into_inner()),
        }
    }
}

#[tonic::async_trait]
impl RaftService for RaftApi {
    type StreamAppendStream = AppendResponses;

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteResponse>, Status> {
        self.host.handle_vote(self.mine(request)?).await.map(Response::new)
    }

    async fn append(&self, request: Request<proto::AppendRequest>) -> Result<Response<proto::AppendResponse>, Status> {
        self.host.handle_append(self.mine(request)?).await.map(Response::new)
    }

    async fn stream_append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<AppendResponses>, Status> {
        let retired = request.extensions().get::<ConnectInfo>().map(ConnectInfo::retired);
        // The leader begins another stream, on a connection that will live longer.
        let requests = self.mine(request)?.take_until(async move {
            match retired {
                Some(retired) => retired.await,
                None => std::future::pending().await,
            }
        });
        Ok(Response::new(self.host.handle_stream_append(Box::pin(requests))))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::InstallSnapshotRequest>>,
    ) -> Result<Response<proto::InstallSnapshotResponse>, Status> {
        self.host.handle_snapshot(self.mine(request)?).await.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        self.host.handle_transfer(self.mine(request)?).await.map(Response::new)
    }
}
