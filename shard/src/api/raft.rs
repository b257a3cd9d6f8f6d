//! `RaftService`: what the replicas of a group say to each other. All meaning is in `group/`.

use std::sync::Arc;

use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_proto::internal::v1 as proto;
use proto::raft_service_server::{RaftService, RaftServiceServer};
use tonic::{Request, Response, Status, Streaming};

use crate::group::GroupHost;
use crate::group::inbound::AppendResponses;

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
}

#[tonic::async_trait]
impl RaftService for RaftApi {
    type StreamAppendStream = AppendResponses;

    async fn vote(&self, request: Request<proto::VoteRequest>) -> Result<Response<proto::VoteResponse>, Status> {
        self.host.handle_vote(request.into_inner()).await.map(Response::new)
    }

    async fn append(&self, request: Request<proto::AppendRequest>) -> Result<Response<proto::AppendResponse>, Status> {
        self.host.handle_append(request.into_inner()).await.map(Response::new)
    }

    async fn stream_append(
        &self,
        request: Request<Streaming<proto::AppendRequest>>,
    ) -> Result<Response<AppendResponses>, Status> {
        Ok(Response::new(self.host.handle_stream_append(request.into_inner())))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<proto::InstallSnapshotRequest>>,
    ) -> Result<Response<proto::InstallSnapshotResponse>, Status> {
        self.host.handle_snapshot(request.into_inner()).await.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferLeaderRequest>,
    ) -> Result<Response<proto::TransferLeaderResponse>, Status> {
        self.host.handle_transfer(request.into_inner()).await.map(Response::new)
    }
}
