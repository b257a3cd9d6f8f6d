//! Which nodes the cluster uses, and whether replicas may move: commands to the metadata leader.

use std::sync::Arc;
use std::time::SystemTime;

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::{GroupId, NodeId};
use omma_common::slot::SLOTS;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::{MetadataRefusal, RemoveNode, SetGroups, SetMovesPaused, SetNodeState};
use omma_proto::v1 as pb;
use omma_proto::v1::NodeState;

use super::propose::{self, Proposed, propose};
use super::{Coordinator, moves, pages, status};
use crate::routing::ClusterMap;

/// Longest name of a node, in bytes: a host's name has up to 253, and then comes the port.
const MOST_NAME: usize = 260;

/// Whether it could be a node's id or address. What is refused later is refused by its name, so that must not be long.
pub(super) fn check_node(node: &str) -> Result<(), ApiError> {
    match node.len() {
        0 => Err(ApiError::field("node", "must be a node's id or address")),
        n if n > MOST_NAME => {
            let problem = format!("has {n} bytes; no id or address has more than {MOST_NAME}");
            Err(ApiError::field("node", problem).over("node name bytes", MOST_NAME).with("actual", n))
        }
        _ => Ok(()),
    }
}

pub(super) fn check_group_count(groups: u32) -> Result<(), ApiError> {
    if groups == 0 || groups > u32::from(SLOTS) {
        return Err(ApiError::field("group_count", format!("must be 1 to {SLOTS}")).over("slots", SLOTS));
    }
    Ok(())
}

/// Moves on a page, and the group after whose the page begins; `None` for the first page.
pub(super) fn page_of(request: &pb::ListMovesRequest) -> Result<(usize, Option<GroupId>), ApiError> {
    let size = pages::size(request.page_size)?;
    let token = pages::read_token("ListMoves", &request.page_token)?;
    let bad_token = |_| ApiError::field("page_token", "is not one that ListMoves returned");
    let after = if token.is_empty() { None } else { Some(token.parse().map_err(bad_token)?) };
    Ok((size, after))
}

/// Has the metadata leader do to `node` what `command` makes of its id.
async fn change(
    coordinator: &Coordinator,
    node: &str,
    deadline: Deadline,
    command: impl Fn(NodeId) -> Command,
) -> Result<NodeId, ApiError> {
    check_node(node)?;
    // A node may have joined a moment ago.
    coordinator.routing.refresh_exactly(deadline).await?;
    let map = coordinator.routing.map().await?;
    let node_id = map.find(node).ok_or_else(|| unknown(node))?;
    match propose(coordinator, command(node_id), deadline).await? {
        Proposed::Done(_) => {
            // Only a convenience: the next status shows it.
            if let Err(error) = coordinator.routing.refresh_exactly(deadline).await {
                tracing::debug!(%error, "the change of the node is not in the cache yet");
            }
            Ok(node_id)
        }
        Proposed::Refused(refusal) => Err(refused(refusal, &map, node_id, node)),
    }
}

fn unknown(node: &str) -> ApiError {
    let text = format!("there is no shard node {node:?}; GetClusterStatus lists ids and addresses");
    ApiError::new(Reason::NodeNotFound, text).with("node", node)
}

fn refused(refusal: MetadataRefusal, map: &ClusterMap, node_id: NodeId, node: &str) -> ApiError {
    let error = match refusal {
        MetadataRefusal::NodeNotFound => return unknown(node),
        MetadataRefusal::TooFewNodes => {
            let needed = map.groups.values().map(|g| g.replicas.len()).max().unwrap_or(0);
            let stays =
                |(id, n): &(&NodeId, &crate::routing::map::Node)| **id != node_id && n.state == NodeState::Active;
            let left = map.nodes.iter().filter(stays).count();
            let text = format!(
                "shard groups have {needed} replicas, so {needed} nodes are needed; without {node} there would be \
                 {left}: add a node first"
            );
            ApiError::new(Reason::TooFewNodes, text).with("needed", needed).with("left", left)
        }
        MetadataRefusal::NodeInUse => {
            let text = format!("node {node} is in use: drain it first, and wait until it is drained");
            ApiError::new(Reason::NodeInUse, text)
        }
        MetadataRefusal::NoCluster => ApiError::new(Reason::ClusterForming, "the cluster is not formed yet"),
        other => propose::no_sense(other),
    };
    error.with("node_id", node_id)
}

fn state(node_id: NodeId, state: NodeState) -> Command {
    Command::SetNodeState(SetNodeState { node_id, state: state.into() })
}

pub(super) async fn drain(
    coordinator: Arc<Coordinator>,
    request: pb::DrainNodeRequest,
    deadline: Deadline,
) -> Result<pb::DrainNodeResponse, ApiError> {
    let command = |id| state(id, NodeState::Draining);
    Ok(pb::DrainNodeResponse { node_id: change(&coordinator, &request.node, deadline, command).await? })
}

pub(super) async fn undrain(
    coordinator: Arc<Coordinator>,
    request: pb::UndrainNodeRequest,
    deadline: Deadline,
) -> Result<pb::UndrainNodeResponse, ApiError> {
    let command = |id| state(id, NodeState::Active);
    Ok(pb::UndrainNodeResponse { node_id: change(&coordinator, &request.node, deadline, command).await? })
}

pub(super) async fn remove(
    coordinator: Arc<Coordinator>,
    request: pb::RemoveNodeRequest,
    deadline: Deadline,
) -> Result<pb::RemoveNodeResponse, ApiError> {
    let command = |node_id| Command::RemoveNode(RemoveNode { node_id });
    Ok(pb::RemoveNodeResponse { node_id: change(&coordinator, &request.node, deadline, command).await? })
}

async fn set_paused(coordinator: &Coordinator, paused: bool, deadline: Deadline) -> Result<(), ApiError> {
    match propose(coordinator, Command::SetMovesPaused(SetMovesPaused { paused }), deadline).await? {
        Proposed::Done(_) => {}
        Proposed::Refused(refusal) => return Err(propose::no_sense(refusal)),
    }
    coordinator.routing.refresh_exactly(deadline).await
}

pub(super) async fn pause(
    coordinator: Arc<Coordinator>,
    _: pb::PauseMovesRequest,
    deadline: Deadline,
) -> Result<pb::PauseMovesResponse, ApiError> {
    set_paused(&coordinator, true, deadline).await.map(|()| pb::PauseMovesResponse {})
}

pub(super) async fn resume(
    coordinator: Arc<Coordinator>,
    _: pb::ResumeMovesRequest,
    deadline: Deadline,
) -> Result<pb::ResumeMovesResponse, ApiError> {
    set_paused(&coordinator, false, deadline).await.map(|()| pb::ResumeMovesResponse {})
}

pub(super) async fn set_group_count(
    coordinator: Arc<Coordinator>,
    request: pb::SetGroupCountRequest,
    deadline: Deadline,
) -> Result<pb::SetGroupCountResponse, ApiError> {
    let groups = request.group_count;
    check_group_count(groups)?;
    match propose(&coordinator, Command::SetGroups(SetGroups { groups }), deadline).await? {
        Proposed::Done(_) => {}
        Proposed::Refused(MetadataRefusal::NoCluster) => {
            return Err(ApiError::new(Reason::ClusterForming, "the cluster is not formed yet"));
        }
        Proposed::Refused(refusal) => return Err(propose::no_sense(refusal)),
    }
    coordinator.routing.refresh_exactly(deadline).await?;
    Ok(pb::SetGroupCountResponse {})
}

pub(super) async fn list_moves(
    coordinator: Arc<Coordinator>,
    request: pb::ListMovesRequest,
    deadline: Deadline,
) -> Result<pb::ListMovesResponse, ApiError> {
    let (size, after) = page_of(&request)?;
    coordinator.routing.refresh_exactly(deadline).await?;
    let map = coordinator.routing.map().await?;
    let answers = status::ask_nodes(&coordinator, &map).await;
    let now = SystemTime::now();
    let slot_moves = if after.is_none() { moves::slot_moves(&map, &answers, now) } else { Vec::new() };
    let all = moves::moves(&map, &answers, now);
    let mut left = all.into_iter().filter(|m| after.is_none_or(|after| m.group_id > after));
    let moves: Vec<_> = left.by_ref().take(size).collect();
    let next_page_token = match (left.next(), moves.last()) {
        (Some(_), Some(last)) => pages::write_token(&last.group_id.to_string()),
        _ => String::new(),
    };
    Ok(pb::ListMovesResponse { moves, next_page_token, paused: map.moves_paused, slot_moves })
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1 as node;

    fn map() -> ClusterMap {
        let nodes =
            (1..=3u64).map(|node_id| node::Node { node_id, address: format!("n{node_id}:1"), ..Default::default() });
        ClusterMap::from_metadata(node::Metadata {
            cluster_id: "c".into(),
            nodes: nodes.collect(),
            groups: vec![node::Group {
                group_id: 1,
                slots: vec![node::SlotRange { first: 0, last: 4095 }],
                replicas: vec![1, 2, 3],
                ..Default::default()
            }],
            ..Default::default()
        })
        .unwrap()
    }

    #[test]
    fn nodes_are_found_by_id_or_address() {
        let map = map();
        assert_eq!((map.find("2"), map.find("n3:1"), map.find("n4:1"), map.find("9")), (Some(2), Some(3), None, None));
        assert_eq!((map.replica_count(2), map.replica_count(9)), (1, 0));
    }

    #[test]
    fn a_refusal_does_not_grow_with_the_name() {
        let longest = format!("{}:65535", "x".repeat(253));
        assert!(check_node(&longest).is_ok() && check_node("").is_err());
        let error = check_node(&"x".repeat(1 << 20)).unwrap_err();
        assert!(error.to_string().len() < 200, "{error}");
    }

    #[test]
    fn a_refusal_says_how_many_nodes_are_needed() {
        let error = refused(MetadataRefusal::TooFewNodes, &map(), 2, "n2:1");
        assert_eq!(error.reason, Reason::TooFewNodes);
        assert!(error.message.contains("3 nodes are needed") && error.message.contains("would be 2"), "{error}");
        assert_eq!(refused(MetadataRefusal::NodeInUse, &map(), 2, "2").reason, Reason::NodeInUse);
        assert_eq!(refused(MetadataRefusal::CollectionExists, &map(), 2, "2").reason, Reason::Internal);
    }
}
