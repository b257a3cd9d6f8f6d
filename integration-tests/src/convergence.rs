//! When a cluster is ready, and when its replicas are equal: decided from a status alone.

use omma_proto::v1::{Agreement, GetClusterStatusResponse, GroupStatus};

/// What a cluster should look like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Shard nodes.
    pub nodes: usize,
    /// Shard groups, the metadata group not among them.
    pub groups: usize,
    /// Replicas of each shard group.
    pub replication: usize,
}

fn shard_groups(status: &GetClusterStatusResponse) -> impl Iterator<Item = &GroupStatus> {
    status.groups.iter().filter(|g| g.group_id != 0)
}

/// Why the cluster cannot serve everything yet; `None` if it can: all groups are there and each has a leader.
pub fn not_ready(status: &GetClusterStatusResponse, shape: Shape) -> Option<String> {
    let groups = shard_groups(status).count();
    if groups != shape.groups {
        return Some(format!("{groups} of {} shard groups", shape.groups));
    }
    let leaderless = status.groups.iter().find(|g| g.leader_node_id == 0)?;
    Some(format!("group {} has no leader", leaderless.group_id))
}

/// Why some replica is away or more than `most` entries behind; `None` if none is. Digests are not looked at.
pub fn not_near(status: &GetClusterStatusResponse, shape: Shape, most: u64) -> Option<String> {
    not_ready(status, shape).or_else(|| {
        status.groups.iter().find_map(|g| {
            let away = g.replicas.iter().find(|r| !r.reachable);
            let applied = || g.replicas.iter().map(|r| r.applied_index);
            let lag = applied().max().unwrap_or(0) - applied().min().unwrap_or(0);
            match away {
                Some(r) => Some(format!("group {}: replica on node {:x} is not reachable", g.group_id, r.node_id)),
                None => (lag > most).then(|| format!("group {}: a replica is {lag} entries behind", g.group_id)),
            }
        })
    })
}

/// Why the replicas are not known to be equal; `None` if they are: every replica of every group is there and reachable,
/// and has the same applied index and digest as the others.
pub fn not_converged(status: &GetClusterStatusResponse, shape: Shape) -> Option<String> {
    not_ready(status, shape)
        .or_else(|| {
            let reachable = status.nodes.iter().filter(|n| n.reachable).count();
            (reachable != shape.nodes).then(|| format!("{reachable} of {} nodes reachable", shape.nodes))
        })
        .or_else(|| status.groups.iter().find_map(|g| group_not_converged(g, shape)))
}

fn group_not_converged(group: &GroupStatus, shape: Shape) -> Option<String> {
    let id = group.group_id;
    let expected = if id == 0 { group.replicas.len().max(1) } else { shape.replication };
    if group.replicas.len() != expected {
        return Some(format!("group {id} has {} of {expected} replicas", group.replicas.len()));
    }
    if let Some(r) = group.replicas.iter().find(|r| !r.reachable) {
        return Some(format!("group {id}: replica on node {:x} is not reachable", r.node_id));
    }
    let first = group.replicas.first()?;
    for r in &group.replicas {
        if r.applied_index != first.applied_index {
            return Some(format!("group {id}: applied {} and {}", r.applied_index, first.applied_index));
        }
        if (&r.digest, r.image_count) != (&first.digest, first.image_count) {
            return Some(format!(
                "group {id}: DIGESTS DIFFER at applied index {}: {} and {} images",
                r.applied_index, r.image_count, first.image_count
            ));
        }
    }
    (group.agreement() != Agreement::Equal).then(|| format!("group {id}: agreement is {:?}", group.agreement()))
}

/// Images in all shard groups, by each group's first replica.
pub fn image_count(status: &GetClusterStatusResponse) -> u64 {
    shard_groups(status).filter_map(|g| g.replicas.first()).map(|r| r.image_count).sum()
}

/// Group and digest of each shard group, by its first replica.
pub fn digests(status: &GetClusterStatusResponse) -> Vec<(u32, Vec<u8>)> {
    shard_groups(status).filter_map(|g| Some((g.group_id, g.replicas.first()?.digest.clone()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::v1::{NodeStatus, ReplicaStatus};

    const SHAPE: Shape = Shape { nodes: 2, groups: 1, replication: 2 };

    fn equal() -> GetClusterStatusResponse {
        let replica = |node_id| ReplicaStatus {
            node_id,
            reachable: true,
            applied_index: 9,
            image_count: 4,
            digest: vec![1, 2],
            ..Default::default()
        };
        let group = |group_id| GroupStatus {
            group_id,
            leader_node_id: 7,
            replicas: vec![replica(7), replica(8)],
            agreement: Agreement::Equal.into(),
            ..Default::default()
        };
        let node = NodeStatus { reachable: true, ..Default::default() };
        GetClusterStatusResponse {
            nodes: vec![node.clone(), node],
            groups: vec![group(0), group(1)],
            ..Default::default()
        }
    }

    #[test]
    fn equal_replicas_have_converged() {
        assert_eq!(not_converged(&equal(), SHAPE), None);
        assert_eq!(image_count(&equal()), 4);
        assert_eq!(digests(&equal()), [(1, vec![1, 2])]);
    }

    #[test]
    fn near_is_a_matter_of_entries() {
        let mut status = equal();
        status.groups[1].replicas[0].applied_index = 12;
        assert_eq!(not_near(&status, SHAPE, 3), None);
        assert!(not_near(&status, SHAPE, 2).is_some());
        status.groups[0].replicas[0].reachable = false;
        assert!(not_near(&status, SHAPE, 3).is_some());
    }

    #[test]
    fn every_difference_counts() {
        let changes: [fn(&mut GetClusterStatusResponse); 8] = [
            |s| s.groups[1].leader_node_id = 0,
            |s| s.groups[1].replicas[1].reachable = false,
            |s| s.groups[1].replicas[1].applied_index = 8,
            |s| s.groups[1].replicas[0].digest = vec![3],
            |s| s.groups[1].replicas[0].image_count = 5,
            |s| s.nodes[1].reachable = false,
            |s| drop(s.groups[1].replicas.pop()),
            |s| s.groups[1].agreement = Agreement::CatchingUp.into(),
        ];
        for (i, change) in changes.iter().enumerate() {
            let mut status = equal();
            change(&mut status);
            assert!(not_converged(&status, SHAPE).is_some(), "change {i}");
        }
        let empty = GetClusterStatusResponse::default();
        assert!(not_ready(&empty, SHAPE).is_some());
    }
}
