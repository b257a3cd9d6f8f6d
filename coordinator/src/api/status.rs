//! The state of the cluster, put together from what each node says. Pure but for [`ask_nodes`].

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_proto::internal::v1::{GetNodeStatusRequest, GetNodeStatusResponse};
use omma_proto::v1::{Agreement, GroupStatus, NodeStatus, ReplicaStatus, VectorSpace};

use super::Coordinator;
use crate::routing::ClusterMap;

/// Longest wait for one node.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the nodes that answered said.
pub(crate) type Answers = BTreeMap<NodeId, GetNodeStatusResponse>;

/// Asks every node at once.
pub(crate) async fn ask_nodes(coordinator: &Coordinator, map: &ClusterMap) -> Answers {
    let deadline = Deadline::after(PATIENCE);
    let asked = map.nodes.iter().map(|(&id, node)| async move {
        let client = coordinator.routing.client(&node.address).ok()?;
        Some((id, client.get_node_status(deadline, GetNodeStatusRequest {}).await.ok()?))
    });
    join_all(asked).await.into_iter().flatten().collect()
}

/// Every node of the map, whether it answered or not.
pub(crate) fn nodes(map: &ClusterMap, answers: &Answers) -> Vec<NodeStatus> {
    let node = |(&node_id, node): (&NodeId, &crate::routing::map::Node)| {
        let said = answers.get(&node_id).and_then(|a| a.node.clone());
        NodeStatus {
            node_id,
            address: node.address.clone(),
            zone: node.zone.clone(),
            state: node.state.into(),
            replica_count: map.replica_count(node_id),
            reachable: answers.contains_key(&node_id),
            ..said.unwrap_or_default()
        }
    };
    map.nodes.iter().map(node).collect()
}

/// The metadata group, then the shard groups.
pub(crate) fn groups(map: &ClusterMap, answers: &Answers) -> Vec<GroupStatus> {
    std::iter::once(METADATA_GROUP).chain(map.groups.keys().copied()).map(|id| group(map, answers, id)).collect()
}

fn group(map: &ClusterMap, answers: &Answers, group_id: GroupId) -> GroupStatus {
    let (mut term, mut leader_node_id) = (0, 0);
    let mut replicas = Vec::new();
    for &node_id in map.replicas(group_id) {
        let said = answers.get(&node_id).and_then(|a| a.replicas.iter().find(|r| r.group_id == group_id));
        if let Some(state) = said
            && (state.term > term || (state.term == term && leader_node_id == 0))
        {
            (term, leader_node_id) = (state.term, state.leader_node_id);
        }
        let status = said.and_then(|s| s.status.clone()).unwrap_or_default();
        replicas.push(ReplicaStatus { node_id, reachable: said.is_some(), ..status });
    }
    GroupStatus {
        group_id,
        leader_node_id,
        term,
        slot_count: map.groups.get(&group_id).map_or(0, |g| g.slot_count),
        agreement: agreement(&replicas) as i32,
        replicas,
    }
}

/// How the replicas that answered compare.
pub(crate) fn agreement(replicas: &[ReplicaStatus]) -> Agreement {
    let reached: Vec<_> = replicas.iter().filter(|r| r.reachable).collect();
    let mut digests: BTreeMap<u64, &[u8]> = BTreeMap::new();
    for replica in &reached {
        let digest = digests.entry(replica.applied_index).or_insert(&replica.digest);
        if *digest != replica.digest {
            return Agreement::Different;
        }
    }
    match digests.len() {
        0 => Agreement::Unspecified,
        1 => Agreement::Equal,
        _ => Agreement::CatchingUp,
    }
}

/// The vector space of the encoders, if all that answered have the same.
pub(crate) fn vector_space(answers: &Answers) -> Option<VectorSpace> {
    let spaces = answers.values().filter_map(|a| a.node.as_ref()?.encoder.as_ref()?.vector_space.as_ref());
    let mut spaces = spaces.filter(|s| !s.id.is_empty());
    let first = spaces.next()?;
    spaces.all(|s| s == first).then(|| first.clone())
}

/// Images of a collection over all groups: as each group's leader counts them, or another replica if the leader did
/// not answer.
pub(crate) fn image_count(
    map: &ClusterMap,
    answers: &Answers,
    uid: u64,
    leader: impl Fn(GroupId) -> Option<NodeId>,
) -> Result<u64, ApiError> {
    let of_group = |group: GroupId| {
        let replicas = map.replicas(group).iter();
        // Who leads by its own word, then by the latest hint, then anybody, the most advanced first.
        let holder = replicas.filter_map(|id| {
            let state = answers.get(id)?.replicas.iter().find(|r| r.group_id == group)?;
            let applied = state.status.as_ref().map_or(0, |s| s.applied_index);
            Some((state.leader_node_id == *id, leader(group) == Some(*id), applied, id))
        });
        let (.., node) = holder.max()?;
        let counts = &answers.get(node)?.collections;
        Some(
            counts
                .iter()
                .filter(|c| c.group_id == group && c.collection_uid == uid)
                .map(|c| c.image_count)
                .sum::<u64>(),
        )
    };
    // A group without slots has only copies, if anything.
    let owners = map.groups.iter().filter(|(_, g)| g.slot_count > 0);
    owners.map(|(group, _)| *group).try_fold(0, |sum, group| {
        let count = of_group(group).ok_or_else(|| {
            let text = format!("no replica of shard group {group} could say how many images it has");
            ApiError::new(Reason::GroupUnavailable, text).with("group_id", group)
        })?;
        Ok(sum + count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1 as node;

    fn replica(reachable: bool, applied_index: u64, digest: u8) -> ReplicaStatus {
        ReplicaStatus { reachable, applied_index, digest: vec![digest], ..Default::default() }
    }

    #[test]
    fn digests_are_compared_at_equal_indexes_only() {
        let r = replica;
        assert_eq!(agreement(&[r(true, 5, 1), r(true, 5, 1)]), Agreement::Equal);
        assert_eq!(agreement(&[r(true, 5, 1), r(false, 0, 0)]), Agreement::Equal);
        assert_eq!(agreement(&[r(true, 5, 1), r(true, 4, 2)]), Agreement::CatchingUp);
        assert_eq!(agreement(&[r(true, 5, 1), r(true, 4, 2), r(true, 5, 3)]), Agreement::Different);
        assert_eq!(agreement(&[r(false, 5, 1)]), Agreement::Unspecified);
    }

    fn map() -> ClusterMap {
        ClusterMap::from_metadata(node::Metadata {
            version: 1,
            cluster_id: "c".into(),
            nodes: (1..=2)
                .map(|id| node::Node {
                    node_id: id,
                    address: format!("n{id}:1"),
                    zone: "z".into(),
                    ..Default::default()
                })
                .collect(),
            groups: vec![node::Group {
                group_id: 1,
                slots: vec![node::SlotRange { first: 0, last: 4095 }],
                replicas: vec![1, 2],
                ..Default::default()
            }],
            ..Default::default()
        })
        .unwrap()
    }

    fn answer(term: u64, leader_node_id: u64, images: u64) -> GetNodeStatusResponse {
        let space = VectorSpace { id: format!("s{term}"), dimension: 2 };
        let encoder = omma_proto::v1::EncoderStatus { vector_space: Some(space), ..Default::default() };
        let status = Some(replica(false, 5, 1));
        GetNodeStatusResponse {
            node: Some(NodeStatus { version: "v".into(), encoder: Some(encoder), ..Default::default() }),
            replicas: vec![node::ReplicaState { group_id: 1, term, leader_node_id, status, slot_move: None }],
            collections: vec![node::CollectionCount { group_id: 1, collection_uid: 9, image_count: images }],
        }
    }

    #[test]
    fn the_newest_term_names_the_leader_and_silent_nodes_are_listed() {
        let answers = Answers::from([(1, answer(4, 1, 10)), (2, answer(5, 2, 12))]);
        let group = &groups(&map(), &answers)[1];
        assert_eq!((group.term, group.leader_node_id, group.slot_count), (5, 2, 4096));
        assert!(group.replicas.iter().all(|r| r.reachable));
        let one = Answers::from([(1, answer(4, 2, 10))]);
        let nodes = nodes(&map(), &one);
        assert_eq!(nodes.iter().map(|n| (n.node_id, n.reachable)).collect::<Vec<_>>(), [(1, true), (2, false)]);
        assert_eq!((nodes[0].version.as_str(), nodes[1].zone.as_str()), ("v", "z"));
        assert!(!groups(&map(), &one)[1].replicas[1].reachable);
        assert_eq!(groups(&map(), &one)[0].group_id, METADATA_GROUP);
    }

    #[test]
    fn the_leader_counts() {
        let answers = Answers::from([(1, answer(4, 2, 10)), (2, answer(4, 2, 12))]);
        assert_eq!(image_count(&map(), &answers, 9, |_| None).unwrap(), 12);
        assert_eq!(image_count(&map(), &answers, 8, |_| None).unwrap(), 0);
        let follower = Answers::from([(1, answer(4, 2, 10))]);
        assert_eq!(image_count(&map(), &follower, 9, |_| None).unwrap(), 10);
        let nobody = image_count(&map(), &Answers::new(), 9, |_| None).unwrap_err();
        assert_eq!(nobody.reason, Reason::GroupUnavailable);
    }

    #[test]
    fn one_vector_space_or_none() {
        assert_eq!(vector_space(&Answers::from([(1, answer(4, 1, 0)), (2, answer(4, 1, 0))])).unwrap().id, "s4");
        assert_eq!(vector_space(&Answers::from([(1, answer(4, 1, 0)), (2, answer(5, 1, 0))])), None);
        assert_eq!(vector_space(&Answers::new()), None);
    }
}
