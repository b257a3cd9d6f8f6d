//! `ClusterService`: what every node says of itself, side by side.

use std::sync::Arc;

use omma_common::deadline::Deadline;
use omma_common::error::ApiError;
use omma_proto::v1 as pb;
use omma_proto::v1::cluster_service_server::ClusterService;
use tonic::{Request, Response, Status};

use super::{Api, Coordinator, status};

#[tonic::async_trait]
impl ClusterService for Api {
    async fn get_cluster_status(
        &self,
        request: Request<pb::GetClusterStatusRequest>,
    ) -> Result<Response<pb::GetClusterStatusResponse>, Status> {
        self.unary("GetClusterStatus", request, cluster_status).await
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
    })
}
