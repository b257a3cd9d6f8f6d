//! The replicas that are on their way, put together from the cluster map and what each node says. Pure.

use std::time::{Duration, SystemTime};

use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1::{ReplicaMove, SlotMove, SlotRange, SlotState, StoredSlotMove};
use omma_proto::v1 as pb;

use super::status::Answers;
use crate::routing::ClusterMap;

/// A member that is at most so many entries behind has caught up, as the nodes see it.
const CAUGHT_UP: u64 = 1_000;

/// By group.
pub(crate) fn moves(map: &ClusterMap, answers: &Answers, now: SystemTime) -> Vec<pb::Move> {
    let moving = map.groups.iter().filter_map(|(id, g)| Some((*id, g.replicas.as_slice(), g.moving.as_ref()?)));
    moving.map(|(id, replicas, current)| one(answers, id, replicas, current, now)).collect()
}

fn one(answers: &Answers, group: GroupId, replicas: &[NodeId], current: &ReplicaMove, now: SystemTime) -> pb::Move {
    let status = |node: NodeId| {
        let state = answers.get(&node)?.replicas.iter().find(|r| r.group_id == group)?;
        state.status.as_ref()
    };
    let copy = status(current.to_node_id);
    let others = || replicas.iter().filter_map(|id| status(*id));
    let total = others().map(|s| s.image_count).max().unwrap_or(0);
    let committed = others().map(|s| s.committed_index).max().unwrap_or(0);
    let done = copy.map_or(0, |s| s.image_count.max(s.received_count)).min(total);
    let phase = match copy {
        None => pb::MovePhase::Waiting,
        // A digest is shown only by a state that is exact.
        Some(s) if s.digest.is_empty() || s.applied_index + CAUGHT_UP < committed || done < total => {
            pb::MovePhase::Copying
        }
        Some(_) => pb::MovePhase::Switching,
    };
    let begun = current.begin_time.and_then(|t| SystemTime::try_from(t).ok());
    let elapsed = begun.and_then(|b| now.duration_since(b).ok());
    pb::Move {
        group_id: group,
        from_node_id: current.from_node_id,
        to_node_id: current.to_node_id,
        reason: current.reason,
        phase: phase.into(),
        done,
        total,
        elapsed: elapsed.and_then(|e| e.try_into().ok()),
        remaining: elapsed.and_then(|e| remaining(done, total, e)).and_then(|r| r.try_into().ok()),
    }
}

/// The slots that are on their way, by move.
pub(crate) fn slot_moves(map: &ClusterMap, answers: &Answers, now: SystemTime) -> Vec<pb::SlotMove> {
    map.slot_moves.iter().map(|moving| slot_move(map, answers, moving, now)).collect()
}

fn slot_move(map: &ClusterMap, answers: &Answers, moving: &SlotMove, now: SystemTime) -> pb::SlotMove {
    let states = |group: GroupId| {
        let replicas = map.replicas(group).iter().filter_map(move |id| answers.get(id));
        replicas.flat_map(|a| &a.replicas).filter(move |r| r.group_id == group)
    };
    let count = |slots: &[SlotRange]| slots.iter().map(|r| u64::from(r.last - r.first) + 1).sum::<u64>();
    let slots = count(&moving.slots);
    let seen = |group| {
        let moves = states(group).filter_map(|r| r.slot_move.as_ref()).filter(|m| m.move_id == moving.move_id);
        moves.max_by_key(|m| m.step_index.max(m.copied))
    };
    let (source, target) = (seen(moving.from_group_id), seen(moving.to_group_id));
    // Images lie evenly in slots. Once the source gives them away, the target has them all.
    let images = states(moving.from_group_id).filter_map(|r| r.status.as_ref()).map(|s| s.image_count).max();
    let owned = map.groups.get(&moving.from_group_id).map_or(0, |g| count(&g.slots));
    let copied = target.map_or(0, |m| m.copied);
    let expected = images.unwrap_or(0) * slots / owned.max(slots).max(1);
    let phase = match (moving.switched, source.map(StoredSlotMove::state)) {
        (true, Some(SlotState::Frozen)) => pb::SlotMovePhase::Switching,
        (true, _) => pb::SlotMovePhase::Clearing,
        (false, Some(SlotState::Frozen)) => pb::SlotMovePhase::Switching,
        (false, Some(_)) => pb::SlotMovePhase::Copying,
        (false, None) => pb::SlotMovePhase::Waiting,
    };
    let whole = matches!(phase, pb::SlotMovePhase::Clearing | pb::SlotMovePhase::Switching);
    let total = if whole { copied } else { expected.max(copied) };
    let begun = moving.begin_time.and_then(|t| SystemTime::try_from(t).ok());
    let elapsed = begun.and_then(|b| now.duration_since(b).ok());
    pb::SlotMove {
        move_id: moving.move_id,
        from_group_id: moving.from_group_id,
        to_group_id: moving.to_group_id,
        slot_count: slots as u32,
        phase: phase.into(),
        done: copied,
        total,
        elapsed: elapsed.and_then(|e| e.try_into().ok()),
        remaining: elapsed.and_then(|e| remaining(copied, total, e)).and_then(|r| r.try_into().ok()),
    }
}

/// At the pace so far; `None` while there is none.
fn remaining(done: u64, total: u64, elapsed: Duration) -> Option<Duration> {
    let left = total.saturating_sub(done) as f64;
    (done > 0).then(|| elapsed.mul_f64(left / done as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1 as node;

    fn map() -> ClusterMap {
        let begin_time = Some(SystemTime::UNIX_EPOCH.into());
        let moving = ReplicaMove { from_node_id: 1, to_node_id: 3, begin_time, ..Default::default() };
        let group = |group_id: u32, first, last, moving| node::Group {
            group_id,
            slots: vec![node::SlotRange { first, last }],
            replicas: vec![1, 2],
            r#move: moving,
            ..Default::default()
        };
        ClusterMap::from_metadata(node::Metadata {
            cluster_id: "c".into(),
            nodes: (1..=3).map(|node_id| node::Node { node_id, ..Default::default() }).collect(),
            groups: vec![group(1, 0, 99, None), group(2, 100, 4095, Some(moving))],
            ..Default::default()
        })
        .unwrap()
    }

    fn answer(image_count: u64, received_count: u64, applied_index: u64, exact: bool) -> node::GetNodeStatusResponse {
        let digest = if exact { vec![1] } else { vec![] };
        let committed_index = applied_index;
        let status = pb::ReplicaStatus {
            image_count,
            received_count,
            applied_index,
            committed_index,
            digest,
            ..Default::default()
        };
        let state = node::ReplicaState { group_id: 2, status: Some(status), ..Default::default() };
        node::GetNodeStatusResponse { replicas: vec![state], ..Default::default() }
    }

    fn seen(copy: Option<node::GetNodeStatusResponse>) -> pb::Move {
        let mut answers = Answers::from([(1, answer(400, 0, 5000, true)), (2, answer(400, 0, 4999, true))]);
        answers.extend(copy.map(|c| (3, c)));
        let mut all = moves(&map(), &answers, SystemTime::UNIX_EPOCH + Duration::from_secs(30));
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn phases_follow_the_copy() {
        let m = seen(None);
        assert_eq!((m.group_id, m.from_node_id, m.to_node_id, m.phase()), (2, 1, 3, pb::MovePhase::Waiting));
        assert_eq!((m.total, m.remaining), (400, None));
        let m = seen(Some(answer(0, 100, 0, false)));
        assert_eq!((m.phase(), m.done), (pb::MovePhase::Copying, 100));
        assert_eq!((m.elapsed.unwrap().seconds, m.remaining.unwrap().seconds), (30, 90));
        assert_eq!(seen(Some(answer(400, 0, 100, true))).phase(), pb::MovePhase::Copying, "it lacks entries");
        assert_eq!(seen(Some(answer(400, 0, 4990, true))).phase(), pb::MovePhase::Switching);
    }

    #[test]
    fn slots_move_from_group_to_group() {
        let mut map = map();
        let slots = vec![node::SlotRange { first: 100, last: 1098 }];
        let begin_time = Some(SystemTime::UNIX_EPOCH.into());
        let moving = |switched| SlotMove {
            move_id: 4,
            from_group_id: 2,
            to_group_id: 1,
            slots: slots.clone(),
            switched,
            begin_time,
        };
        let at = |group_id, state: SlotState, copied| {
            let mut said = answer(400, 0, 9, true);
            let current = StoredSlotMove { move_id: 4, state: state.into(), copied, ..Default::default() };
            (said.replicas[0].group_id, said.replicas[0].slot_move) = (group_id, Some(current));
            said
        };
        let seen = |map: &ClusterMap, answers| {
            slot_moves(map, &answers, SystemTime::UNIX_EPOCH + Duration::from_secs(30)).remove(0)
        };
        map.slot_moves = vec![moving(false)];
        assert_eq!(seen(&map, Answers::new()).phase(), pb::SlotMovePhase::Waiting);
        let answers = |state, copied| Answers::from([(1, at(2, state, 0)), (2, at(1, SlotState::Arriving, copied))]);
        let m = seen(&map, answers(SlotState::Leaving, 25));
        assert_eq!((m.phase(), m.slot_count, m.done, m.total), (pb::SlotMovePhase::Copying, 999, 25, 100));
        assert_eq!(m.remaining.unwrap().seconds, 90);
        assert_eq!(seen(&map, answers(SlotState::Frozen, 99)).phase(), pb::SlotMovePhase::Switching);
        map.slot_moves = vec![moving(true)];
        assert_eq!(seen(&map, answers(SlotState::Gone, 99)).phase(), pb::SlotMovePhase::Clearing);
    }

    #[test]
    fn clocks_that_differ_do_no_harm() {
        let answers = Answers::new();
        let m = &moves(&map(), &answers, SystemTime::UNIX_EPOCH - Duration::from_secs(5))[0];
        assert_eq!((m.elapsed, m.remaining, m.total), (None, None, 0));
    }
}
