//! How the cluster map changes while replicas move: pure. Each command names the epoch that it was planned for, so one
//! that comes late, or twice, has no effect.

use omma_proto::internal::v1::{BeginMove, EndMove, Group, Metadata, MetadataRefusal, PreferLeader};

/// Whether a command changed anything.
type Changed = Result<bool, MetadataRefusal>;

fn group(metadata: &mut Metadata, group_id: u32, epoch: u64) -> Result<&mut Group, MetadataRefusal> {
    if metadata.epoch != epoch {
        return Err(MetadataRefusal::StaleEpoch);
    }
    metadata.groups.iter_mut().find(|g| g.group_id == group_id).ok_or(MetadataRefusal::Invalid)
}

/// A replica begins to move: the receiving node learns from the map that it is to make a copy.
pub(super) fn begin(metadata: &mut Metadata, begin: BeginMove) -> Changed {
    let new = begin.r#move.ok_or(MetadataRefusal::Invalid)?;
    let known = metadata.nodes.iter().any(|n| n.node_id == new.to_node_id);
    let group = group(metadata, begin.group_id, begin.epoch)?;
    let sound = known && group.replicas.contains(&new.from_node_id) && !group.replicas.contains(&new.to_node_id);
    if !sound || group.r#move.is_some() {
        return Err(MetadataRefusal::Invalid);
    }
    group.r#move = Some(new);
    metadata.epoch += 1;
    Ok(true)
}

/// A move ends: the new replica takes the place of the old one, or nothing has changed.
pub(super) fn end(metadata: &mut Metadata, end: &EndMove) -> Changed {
    let group = group(metadata, end.group_id, end.epoch)?;
    let ended = group.r#move.take_if(|m| m.to_node_id == end.to_node_id).ok_or(MetadataRefusal::Invalid)?;
    if end.done {
        group.finished_moves += 1;
        for replica in group.replicas.iter_mut().filter(|r| **r == ended.from_node_id) {
            *replica = ended.to_node_id;
        }
    }
    metadata.epoch += 1;
    Ok(true)
}

/// The first replica is where leadership should rest.
pub(super) fn prefer_leader(metadata: &mut Metadata, prefer: &PreferLeader) -> Changed {
    let group = group(metadata, prefer.group_id, prefer.epoch)?;
    let at = group.replicas.iter().position(|r| *r == prefer.node_id).ok_or(MetadataRefusal::Invalid)?;
    group.replicas.swap(0, at);
    metadata.epoch += 1;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::{Node, ReplicaMove};

    fn cluster() -> Metadata {
        let nodes = (1..=4).map(|node_id| Node { node_id, address: node_id.to_string(), ..Node::default() });
        let group = Group { group_id: 1, replicas: vec![1, 2, 3], ..Group::default() };
        Metadata { nodes: nodes.collect(), groups: vec![group], epoch: 5, ..Metadata::default() }
    }

    fn begin_move(m: &mut Metadata, from_node_id: u64, to_node_id: u64, epoch: u64) -> Changed {
        let new = ReplicaMove { from_node_id, to_node_id, ..ReplicaMove::default() };
        begin(m, BeginMove { group_id: 1, r#move: Some(new), epoch })
    }

    fn end_move(m: &mut Metadata, to_node_id: u64, done: bool, epoch: u64) -> Changed {
        end(m, &EndMove { group_id: 1, to_node_id, done, epoch })
    }

    #[test]
    fn a_finished_move_keeps_the_place() {
        let mut m = cluster();
        assert_eq!(begin_move(&mut m, 1, 4, 5), Ok(true));
        assert_eq!(m.groups[0].replicas, [1, 2, 3], "until it is done");
        assert_eq!(end_move(&mut m, 4, true, 6), Ok(true));
        let group = &m.groups[0];
        assert_eq!((group.replicas.as_slice(), group.r#move.as_ref(), group.finished_moves), (&[4, 2, 3][..], None, 1));
    }

    #[test]
    fn a_move_that_is_given_up_changes_nothing() {
        let mut m = cluster();
        begin_move(&mut m, 1, 4, 5).unwrap();
        end_move(&mut m, 4, false, 6).unwrap();
        assert_eq!((m.groups[0].clone(), m.epoch), (cluster().groups[0].clone(), 7));
    }

    #[test]
    fn what_comes_late_or_makes_no_sense_is_refused() {
        let mut m = cluster();
        assert_eq!(begin_move(&mut m, 1, 4, 4), Err(MetadataRefusal::StaleEpoch));
        for (from, to) in [(1, 2), (4, 4), (1, 9)] {
            assert_eq!(begin_move(&mut m, from, to, 5), Err(MetadataRefusal::Invalid), "{from} {to}");
        }
        begin_move(&mut m, 1, 4, 5).unwrap();
        assert_eq!(begin_move(&mut m, 1, 4, 5), Err(MetadataRefusal::StaleEpoch), "twice");
        assert_eq!(begin_move(&mut m, 2, 4, 6), Err(MetadataRefusal::Invalid), "one at a time");
        assert_eq!(end_move(&mut m, 3, true, 6), Err(MetadataRefusal::Invalid));
        let prefer = |m: &mut Metadata, node_id, epoch| prefer_leader(m, &PreferLeader { group_id: 1, node_id, epoch });
        assert_eq!(prefer(&mut m, 4, 6), Err(MetadataRefusal::Invalid));
        assert_eq!(prefer(&mut m, 3, 6), Ok(true));
        assert_eq!(m.groups[0].replicas, [3, 2, 1]);
    }
}
