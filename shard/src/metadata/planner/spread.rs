//! Which moves to begin: off nodes that must be left, then to where there are fewer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1::{Group, Node};
use omma_proto::v1::MoveReason;

use super::{Health, MOST_MOVES, Step, View};
use crate::metadata::nodes::is_active;

/// The placement as it will be when the moves under way are through.
pub(super) struct Placement<'a> {
    zones: BTreeMap<NodeId, &'a str>,
    groups: BTreeMap<GroupId, BTreeSet<NodeId>>,
    /// Replicas and images of each node that may have more.
    load: BTreeMap<NodeId, (usize, u64)>,
}

impl<'a> Placement<'a> {
    fn of(view: &View<'a>) -> Self {
        let metadata = view.metadata;
        Self::new(&metadata.nodes, &metadata.groups, |n| view.usable(n), |g| images(view, g))
    }

    /// Of groups without images on nodes that may all be used.
    pub(super) fn among(nodes: &'a [Node], groups: &[Group]) -> Self {
        Self::new(nodes, groups, |_| true, |_| 0)
    }

    fn new(
        nodes: &'a [Node],
        groups: &[Group],
        usable: impl Fn(NodeId) -> bool,
        images: impl Fn(GroupId) -> u64,
    ) -> Self {
        let zones = nodes.iter().map(|n| (n.node_id, n.zone.as_str())).collect();
        let groups: BTreeMap<_, _> = groups.iter().map(|g| (g.group_id, settled(g))).collect();
        let mut load: BTreeMap<NodeId, (usize, u64)> =
            nodes.iter().filter(|n| usable(n.node_id)).map(|n| (n.node_id, (0, 0))).collect();
        for (id, replicas) in &groups {
            for replica in replicas {
                if let Some((count, sum)) = load.get_mut(replica) {
                    *count += 1;
                    *sum += images(*id);
                }
            }
        }
        Self { zones, groups, load }
    }

    fn zone(&self, node: NodeId) -> &str {
        self.zones.get(&node).copied().unwrap_or_default()
    }

    fn zones_of(&self, replicas: impl Iterator<Item = NodeId>) -> usize {
        replicas.map(|r| self.zone(r)).collect::<BTreeSet<_>>().len()
    }

    /// In how many zones a group is when its replica on `from` goes to `to`.
    fn zones_after(&self, group: GroupId, from: NodeId, to: NodeId) -> usize {
        let replicas = self.groups.get(&group).into_iter().flatten().copied();
        self.zones_of(replicas.filter(|r| *r != from).chain([to]))
    }

    /// Nodes that could take a replica of `group`.
    fn takers(&self, group: GroupId) -> impl Iterator<Item = NodeId> {
        let replicas = self.groups.get(&group);
        self.load.keys().copied().filter(move |n| replicas.is_none_or(|r| !r.contains(n)))
    }

    /// Where the replica of `group` that must leave `from` goes: to as many zones as possible, then where there are
    /// fewest replicas, then fewest images.
    fn best_taker(&self, group: GroupId, from: NodeId) -> Option<NodeId> {
        self.takers(group).min_by_key(|to| {
            let zones = self.zones_after(group, from, *to);
            (Reverse(zones), self.load.get(to).copied(), *to)
        })
    }

    /// The move that makes the placement most even, if any does: a group gets into more zones, or a node that has two
    /// replicas more than another gives one to it without leaving a zone.
    pub(super) fn better(&self, movable: impl Fn(GroupId) -> bool) -> Option<(GroupId, NodeId, NodeId)> {
        let mut best = None;
        for (&group, replicas) in self.groups.iter().filter(|(g, _)| movable(**g)) {
            let zones = self.zones_of(replicas.iter().copied());
            for &from in replicas {
                let Some(&(have, _)) = self.load.get(&from) else { continue };
                for to in self.takers(group) {
                    let (get, images) = self.load.get(&to).copied().unwrap_or_default();
                    let gained = self.zones_after(group, from, to) as i64 - zones as i64;
                    let evened = have as i64 - get as i64;
                    if gained > 0 || (gained == 0 && evened >= 2) {
                        let worth = (gained, evened, Reverse(images));
                        if best.as_ref().is_none_or(|(w, _)| worth > *w) {
                            best = Some((worth, (group, from, to)));
                        }
                    }
                }
            }
        }
        best.map(|(_, found)| found)
    }

    fn apply(&mut self, group: GroupId, from: NodeId, to: NodeId, images: u64) {
        if let Some(replicas) = self.groups.get_mut(&group) {
            replicas.remove(&from);
            replicas.insert(to);
        }
        if let Some((count, sum)) = self.load.get_mut(&from) {
            *count -= 1;
            *sum = sum.saturating_sub(images);
        }
        if let Some((count, sum)) = self.load.get_mut(&to) {
            *count += 1;
            *sum += images;
        }
    }
}

/// A group's replicas when its move is through.
fn settled(group: &Group) -> BTreeSet<NodeId> {
    let mut replicas: BTreeSet<NodeId> = group.replicas.iter().copied().collect();
    if let Some(m) = &group.r#move {
        replicas.remove(&m.from_node_id);
        replicas.insert(m.to_node_id);
    }
    replicas
}

/// Moves to begin now. Moves that only spread wait until nobody is away for a moment and nothing else moves.
pub(super) fn begin(view: &View) -> Vec<Step> {
    let mut placement = Placement::of(view);
    let under_way = view.metadata.groups.iter().filter_map(|g| g.r#move.as_ref());
    let mut receiving: BTreeSet<NodeId> = under_way.clone().map(|m| m.to_node_id).collect();
    let mut moves = under_way.count();
    let mut steps = Vec::new();
    let mut must = false;
    for group in view.metadata.groups.iter().filter(|g| can_begin(view, g)) {
        let leaving = group.replicas.iter().find_map(|r| Some((*r, view.must_leave(*r)?)));
        let Some((from, reason)) = leaving else { continue };
        must = true;
        // The best place, even if it has to be waited for.
        let Some(to) = placement.best_taker(group.group_id, from) else { continue };
        if moves < MOST_MOVES && receiving.insert(to) {
            placement.apply(group.group_id, from, to, images(view, group.group_id));
            steps.push(Step::Begin { group: group.group_id, from, to, reason });
            moves += 1;
        }
    }
    let calm = view.metadata.nodes.iter().all(|n| view.health(n.node_id) != Health::Away || !is_active(n));
    if must || moves > 0 || !calm {
        return steps;
    }
    let movable = |id| view.metadata.groups.iter().any(|g| g.group_id == id && can_begin(view, g));
    while moves < MOST_MOVES
        && let Some((group, from, to)) = placement.better(|id| movable(id) && !begun(&steps, id))
        && receiving.insert(to)
    {
        placement.apply(group, from, to, images(view, group));
        steps.push(Step::Begin { group, from, to, reason: MoveReason::Spread });
        moves += 1;
    }
    steps
}

/// Where the replicas of a new group go: to as many zones as possible, then where there are fewest. `None` while too few
/// nodes can be used.
pub(super) fn place_new(view: &View, replication: usize) -> Option<Vec<NodeId>> {
    let placement = Placement::of(view);
    let firsts = |id: NodeId| view.metadata.groups.iter().filter(|g| g.replicas.first() == Some(&id)).count();
    let mut chosen: Vec<NodeId> = Vec::new();
    while chosen.len() < replication {
        let left = placement.load.keys().copied().filter(|id| !chosen.contains(id));
        let zones = |id: NodeId| placement.zones_of(chosen.iter().copied().chain([id]));
        let best = left.min_by_key(|id| (Reverse(zones(*id)), placement.load.get(id).copied(), *id))?;
        chosen.push(best);
    }
    // There leadership will rest.
    chosen.sort_by_key(|id| (firsts(*id), *id));
    Some(chosen)
}

fn begun(steps: &[Step], id: GroupId) -> bool {
    steps.iter().any(|s| matches!(s, Step::Begin { group, .. } if *group == id))
}

fn images(view: &View, group: GroupId) -> u64 {
    view.groups.get(&group).map_or(0, |g| g.images)
}

/// Whether the group is in order and nothing of it moves.
fn can_begin(view: &View, group: &Group) -> bool {
    let replicas: BTreeSet<NodeId> = group.replicas.iter().copied().collect();
    let in_order = |m: &super::GroupView| m.committed && !m.joint && m.learners.is_empty() && m.voters == replicas;
    group.r#move.is_none() && view.groups.get(&group.group_id).is_some_and(in_order)
}

/// Leadership is to rest on as many nodes as possible.
pub(super) fn prefer(view: &View) -> Option<Step> {
    let quiet = view.metadata.groups.iter().all(|g| can_begin(view, g));
    let (group, node) = more_even_firsts(&view.metadata.groups, |id| view.usable(id)).filter(|_| quiet)?;
    Some(Step::Prefer { group, node })
}

/// A group whose leadership would better rest on another of its replicas: its first one's node has at least two firsts
/// more than the other's.
pub(super) fn more_even_firsts(groups: &[Group], usable: impl Fn(NodeId) -> bool) -> Option<(GroupId, NodeId)> {
    let mut firsts: BTreeMap<NodeId, usize> = BTreeMap::new();
    for first in groups.iter().filter_map(|g| g.replicas.first()) {
        *firsts.entry(*first).or_default() += 1;
    }
    let count = |id: &NodeId| firsts.get(id).copied().unwrap_or(0);
    groups.iter().find_map(|group| {
        let (first, others) = group.replicas.split_first()?;
        let to = others.iter().filter(|id| usable(**id)).min_by_key(|id| count(id))?;
        (count(first) >= count(to) + 2).then_some((group.group_id, *to))
    })
}
