//! `ClusterService`: what every node says of itself, side by side; and which nodes the cluster uses.

use std::sync::Arc;

use omma_common::deadline::Deadline;
use omma_common::error::ApiError;
use omma_proto::v1 as pb;
use omma_proto::v1::cluster_service_server::ClusterService;
use tonic::{Request, Response, Status};

use super::{Api, Coordinator, nodes, status};

#[tonic::async_trait]
impl ClusterService for Api {
    async fn get_cluster_status(
        &self,
        request: Request<pb::GetClusterStatusRequest>,
    ) -> Result<Response<pb::GetClusterStatusResponse>, Status> {
        self.unary("GetClusterStatus", request, cluster_status).await
    }

    async fn drain_node(
        &self,
        request: Request<pb::DrainNodeRequest>,
    ) -> Result<Response<pb::DrainNodeResponse>, Status> {
        self.unary("DrainNode", request, nodes::drain).await
    }

    async fn undrain_node(
        &self,
        request: Request<pb::UndrainNodeRequest>,
    ) -> Result<Response<pb::UndrainNodeResponse>, Status> {
        self.unary("UndrainNode", request, nodes::undrain).await
    }

    async fn remove_node(
        &self,
        request: Request<pb::RemoveNodeRequest>,
    ) -> Result<Response<pb::RemoveNodeResponse>, Status> {
        self.unary("RemoveNode", request, nodes::remove).await
    }

    async fn pause_moves(
        &self,
        request: Request<pb::PauseMovesRequest>,
    ) -> Result<Response<pb::PauseMovesResponse>, Status> {
        self.unary("PauseMoves", request, nodes::pause).await
    }

    async fn resume_moves(
        &self,
        request: Request<pb::ResumeMovesRequest>,
    ) -> Result<Response<pb::ResumeMovesResponse>, Status> {
        self.unary("ResumeMoves", request, nodes::resume).await
    }

    async fn list_moves(
        &self,
        request: Request<pb::ListMovesRequest>,
    ) -> Result<Response<pb::ListMovesResponse>, Status> {
        self.unary("ListMoves", request, nodes::list_moves).await
    }

    async fn set_group_count(
        &self,
        request: Request<pb::SetGroupCountRequest>,
    ) -> Result<Response<pb::SetGroupCountResponse>, Status> {
        self.unary("SetGroupCount", request, nodes::set_group_count).await
    }
}

async fn cluster_status(
    coordinator: Arc<Coordinator>,
    _: pb::GetClusterStatusRequest,
    _: Deadline,
) -> Result<pb::GetClusterStatusResponse, ApiError> {
    let map = coordinator.routing.map().await?;
    let answers = status::ask_nodes(&coordinator, &map).await;
    Ok(pb::GetClusterStatusResponse {
        cluster_id: map.cluster_id.clone(),
        epoch: map.epoch,
        nodes: status::nodes(&map, &answers),
        groups: status::groups(&map, &answers),
        vector_space: status::vector_space(&answers),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        moves_paused: map.moves_paused,
        wanted_group_count: map.wanted_groups,
    })
}
