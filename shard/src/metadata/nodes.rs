//! Which nodes the cluster has and what for: pure.

use omma_proto::internal::v1::{Group, Metadata, MetadataRefusal, Node, PutNode, SetNodeState};
use omma_proto::v1::NodeState;

/// Removed nodes that are remembered.
const MOST_REMOVED: usize = 1000;

/// Whether a command changed anything.
type Changed = Result<bool, MetadataRefusal>;

/// Whether `node` may hold replicas.
pub(super) fn is_active(node: &Node) -> bool {
    matches!(node.state(), NodeState::Active | NodeState::Unspecified)
}

/// Whether the map has anything of `group` on the node: a replica, or one on its way there.
pub(crate) fn concerns(group: &Group, node_id: u64) -> bool {
    group.replicas.contains(&node_id) || group.r#move.as_ref().is_some_and(|m| m.to_node_id == node_id)
}

fn holds_any(metadata: &Metadata, node_id: u64) -> bool {
    metadata.groups.iter().any(|g| concerns(g, node_id))
}

fn position(metadata: &Metadata, node_id: u64) -> Result<usize, usize> {
    metadata.nodes.binary_search_by_key(&node_id, |n| n.node_id)
}

/// Adds a node, or changes where it is. What it is for stays.
pub(super) fn put(metadata: &mut Metadata, put: PutNode) -> Changed {
    let node = put.node.filter(|n| n.node_id != 0 && !n.address.is_empty()).ok_or(MetadataRefusal::Invalid)?;
    if metadata.removed_node_ids.contains(&node.node_id) {
        return Err(MetadataRefusal::NodeRemoved);
    }
    let (node_id, address) = (node.node_id, node.address.clone());
    match position(metadata, node_id) {
        Ok(at) => {
            let known = &mut metadata.nodes[at];
            // It lost its place to the node that is at its address now.
            if known.state() == NodeState::Replaced {
                return Err(MetadataRefusal::NodeRemoved);
            }
            // Every restart says it again.
            if (&known.address, &known.zone) == (&node.address, &node.zone) {
                return Ok(false);
            }
            *known = Node { state: known.state, ..node };
        }
        Err(at) => metadata.nodes.insert(at, Node { state: NodeState::Active.into(), ..node }),
    }
    for other in metadata.nodes.iter_mut().filter(|n| n.node_id != node_id && n.address == address) {
        other.set_state(NodeState::Replaced);
    }
    metadata.epoch += 1;
    Ok(true)
}

/// Says what a node is for.
pub(super) fn set_state(metadata: &mut Metadata, set: &SetNodeState) -> Changed {
    let at = position(metadata, set.node_id).map_err(|_| MetadataRefusal::NodeNotFound)?;
    match (metadata.nodes[at].state(), set.state()) {
        (NodeState::Replaced, _) => return Err(MetadataRefusal::NodeNotFound),
        (now, new) if now == new => return Ok(false),
        (_, NodeState::Active) => {}
        // What is drained stays so.
        (NodeState::Drained, NodeState::Draining) => return Ok(false),
        (_, NodeState::Draining) => {
            let others = metadata.nodes.iter().filter(|n| n.node_id != set.node_id && is_active(n)).count();
            if others < replication(metadata) {
                return Err(MetadataRefusal::TooFewNodes);
            }
        }
        (NodeState::Draining, NodeState::Drained) if !holds_any(metadata, set.node_id) => {}
        (_, NodeState::Drained) => return Err(MetadataRefusal::NodeInUse),
        _ => return Err(MetadataRefusal::Invalid),
    }
    metadata.nodes[at].state = set.state;
    metadata.epoch += 1;
    Ok(true)
}

/// Replicas of the group that has most.
pub(crate) fn replication(metadata: &Metadata) -> usize {
    metadata.groups.iter().map(|g| g.replicas.len()).max().unwrap_or(0)
}

/// Takes a node out for good.
pub(super) fn remove(metadata: &mut Metadata, node_id: u64) -> Changed {
    let Ok(at) = position(metadata, node_id) else {
        let removed = metadata.removed_node_ids.contains(&node_id);
        return if removed { Ok(false) } else { Err(MetadataRefusal::NodeNotFound) };
    };
    if !matches!(metadata.nodes[at].state(), NodeState::Drained | NodeState::Replaced) || holds_any(metadata, node_id) {
        return Err(MetadataRefusal::NodeInUse);
    }
    metadata.nodes.remove(at);
    metadata.removed_node_ids.push(node_id);
    let surplus = metadata.removed_node_ids.len().saturating_sub(MOST_REMOVED);
    metadata.removed_node_ids.drain(..surplus);
    metadata.epoch += 1;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node_id: u64) -> Node {
        Node { node_id, address: format!("n{node_id}"), ..Node::default() }
    }

    fn cluster(nodes: u64, replicas: &[u64]) -> Metadata {
        let group = Group { group_id: 1, replicas: replicas.to_vec(), ..Group::default() };
        Metadata { nodes: (1..=nodes).map(node).collect(), groups: vec![group], epoch: 1, ..Metadata::default() }
    }

    fn set(metadata: &mut Metadata, node_id: u64, state: NodeState) -> Changed {
        set_state(metadata, &SetNodeState { node_id, state: state.into() })
    }

    #[test]
    fn a_node_drains_only_while_the_others_are_enough() {
        let mut m = cluster(4, &[1, 2, 3]);
        assert_eq!(set(&mut m, 9, NodeState::Draining), Err(MetadataRefusal::NodeNotFound));
        assert_eq!(set(&mut m, 3, NodeState::Draining), Ok(true));
        assert_eq!(set(&mut m, 3, NodeState::Draining), Ok(false));
        assert_eq!(set(&mut m, 2, NodeState::Draining), Err(MetadataRefusal::TooFewNodes));
        assert_eq!(set(&mut m, 3, NodeState::Active), Ok(true));
        assert_eq!((set(&mut m, 2, NodeState::Draining), m.epoch), (Ok(true), 4));
    }

    #[test]
    fn a_node_is_drained_and_removed_only_without_replicas() {
        let mut m = cluster(4, &[1, 2, 3]);
        set(&mut m, 3, NodeState::Draining).unwrap();
        assert_eq!(set(&mut m, 3, NodeState::Drained), Err(MetadataRefusal::NodeInUse));
        assert_eq!(remove(&mut m, 3), Err(MetadataRefusal::NodeInUse));
        m.groups[0].replicas = vec![1, 2, 4];
        assert_eq!(remove(&mut m, 3), Err(MetadataRefusal::NodeInUse), "not drained yet");
        assert_eq!(set(&mut m, 3, NodeState::Drained), Ok(true));
        assert_eq!(set(&mut m, 4, NodeState::Drained), Err(MetadataRefusal::NodeInUse));
        assert_eq!((remove(&mut m, 3), remove(&mut m, 3)), (Ok(true), Ok(false)));
        assert_eq!(remove(&mut m, 9), Err(MetadataRefusal::NodeNotFound));
        let back = put(&mut m, PutNode { node: Some(node(3)) });
        assert_eq!(back, Err(MetadataRefusal::NodeRemoved), "an id is never used again");
    }

    #[test]
    fn a_new_node_at_a_known_address_replaces_the_old_one() {
        let mut m = cluster(3, &[1, 2, 3]);
        let wiped = Node { node_id: 7, address: "n2".into(), ..Node::default() };
        assert_eq!(put(&mut m, PutNode { node: Some(wiped.clone()) }), Ok(true));
        assert_eq!(put(&mut m, PutNode { node: Some(wiped) }), Ok(false));
        assert_eq!((m.nodes[1].state(), m.nodes[3].state()), (NodeState::Replaced, NodeState::Active));
        assert_eq!(put(&mut m, PutNode { node: Some(node(2)) }), Err(MetadataRefusal::NodeRemoved));
        assert_eq!(set(&mut m, 2, NodeState::Active), Err(MetadataRefusal::NodeNotFound));
    }

    #[test]
    fn moving_to_another_address_keeps_the_state() {
        let mut m = cluster(4, &[1, 2, 3]);
        set(&mut m, 4, NodeState::Draining).unwrap();
        put(&mut m, PutNode { node: Some(Node { address: "moved".into(), ..node(4) }) }).unwrap();
        assert_eq!((m.nodes[3].state(), m.nodes[3].address.as_str()), (NodeState::Draining, "moved"));
    }
}
