//! The placement service: what the metadata leader asks to move replicas.

use std::sync::Arc;

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_proto::internal::v1::change_members_request::Change;
use omma_proto::internal::v1::placement_service_server::PlacementService;
use omma_proto::internal::v1::*;
use tonic::{Request, Response, Status};

use super::{errors, slots};
use crate::group::MemberChange;
use crate::node::Node;

pub(super) struct PlacementApi {
    pub(super) node: Arc<Node>,
}

#[tonic::async_trait]
impl PlacementService for PlacementApi {
    async fn observe_node(&self, _: Request<ObserveNodeRequest>) -> Result<Response<ObserveNodeResponse>, Status> {
        Ok(Response::new(self.node.observe().await))
    }

    async fn change_members(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        let ChangeMembersRequest { group_id, members_index, change } = request.into_inner();
        let replica = self.node.host.get(group_id).ok_or_else(|| errors::unknown_group(group_id))?;
        let change = match change.ok_or_else(|| errors::missing("change"))? {
            Change::AddLearner(node) => MemberChange::AddLearner { node: node.node_id, address: node.address },
            Change::SetVoters(set) if set.node_ids.is_empty() => return Err(errors::missing("set_voters").into()),
            Change::SetVoters(set) => MemberChange::SetVoters(set.node_ids.into_iter().collect()),
            Change::RemoveLearner(node) => MemberChange::RemoveLearner(node),
            Change::LeaveJoint(_) => MemberChange::LeaveJoint,
            Change::TransferTo(to) => {
                if replica.status().members_index != members_index {
                    let text = format!("the members of group {group_id} have changed since this was planned");
                    return Err(ApiError::new(Reason::MembersChanged, text).into());
                }
                replica.transfer_leader(to).await.map_err(ApiError::from)?;
                return Ok(Response::new(ChangeMembersResponse {}));
            }
        };
        replica.change_members(members_index, change, deadline).await.map_err(ApiError::from)?;
        Ok(Response::new(ChangeMembersResponse {}))
    }

    async fn step_slots(&self, request: Request<StepSlotsRequest>) -> Result<Response<StepSlotsResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        Ok(Response::new(slots::step(&self.node, request.into_inner(), deadline).await?))
    }

    async fn export_slots(
        &self,
        request: Request<ExportSlotsRequest>,
    ) -> Result<Response<ExportSlotsResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        Ok(Response::new(slots::export(&self.node, request.into_inner(), deadline).await?))
    }

    async fn import_slots(
        &self,
        request: Request<ImportSlotsRequest>,
    ) -> Result<Response<ImportSlotsResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        Ok(Response::new(slots::import(&self.node, request.into_inner(), deadline).await?))
    }

    async fn purge_slots(&self, request: Request<PurgeSlotsRequest>) -> Result<Response<PurgeSlotsResponse>, Status> {
        let deadline = Deadline::of(request.metadata());
        Ok(Response::new(slots::purge(&self.node, request.into_inner(), deadline).await?))
    }
}
