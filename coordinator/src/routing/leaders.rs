//! Who leads each group, as far as is known. Pure.

use std::collections::BTreeMap;

use omma_common::ids::{GroupId, NodeId};

use crate::error::LeaderAddress;

/// A leader and the term it was elected for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leader {
    /// `None`: this term's leader is not known, or could not be reached.
    pub(crate) node_id: Option<NodeId>,
    /// `host:port`, where the hint told it; the cluster map knows it otherwise.
    pub(crate) address: Option<String>,
    /// Raft term.
    pub(crate) term: u64,
}

/// The newest leader of each group.
#[derive(Debug, Clone, Default)]
pub(crate) struct Leaders(BTreeMap<GroupId, Leader>);

impl Leaders {
    /// What is known of `group`.
    pub(crate) fn of(&self, group: GroupId) -> Option<&Leader> {
        self.0.get(&group)
    }

    /// A node says that `node_id` leads `group` in `term`: taken if the term is newer, or fills a gap in this one.
    pub(crate) fn heard(&mut self, group: GroupId, node_id: NodeId, term: u64) -> bool {
        if node_id == 0 {
            return false;
        }
        let news = self.0.get(&group).is_none_or(|l| term > l.term || (term == l.term && l.node_id.is_none()));
        if news {
            self.0.insert(group, Leader { node_id: Some(node_id), address: None, term });
        }
        news
    }

    /// A replica that was asked to lead pointed to another one. It told no term: any later report may correct it.
    pub(crate) fn pointed(&mut self, group: GroupId, to: &LeaderAddress) {
        let term = self.0.get(&group).map_or(0, |l| l.term);
        let address = Some(to.address.clone()).filter(|a| !a.is_empty());
        self.0.insert(group, Leader { node_id: Some(to.node_id), address, term });
    }

    /// `node_id` could not be reached or does not lead: forgotten, if it was taken for the leader.
    pub(crate) fn doubt(&mut self, group: GroupId, node_id: NodeId) {
        if let Some(leader) = self.0.get_mut(&group)
            && leader.node_id == Some(node_id)
        {
            leader.node_id = None;
            leader.address = None;
        }
    }
}

/// Whom to ask next: the known leader unless it has just failed; otherwise the replicas in turn.
pub(crate) fn candidate(leader: Option<NodeId>, replicas: &[NodeId], failed: &[NodeId]) -> Option<NodeId> {
    leader
        .filter(|l| !failed.contains(l))
        .or_else(|| replicas.iter().copied().find(|replica| !failed.contains(replica)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(leaders: &Leaders) -> Option<NodeId> {
        leaders.of(1).and_then(|l| l.node_id)
    }

    #[test]
    fn the_highest_term_wins() {
        let mut leaders = Leaders::default();
        assert!(leaders.heard(1, 10, 5));
        assert!(!leaders.heard(1, 11, 4));
        assert!(!leaders.heard(1, 11, 5));
        assert!(!leaders.heard(1, 0, 9));
        assert_eq!(node(&leaders), Some(10));
        assert!(leaders.heard(1, 11, 6));
        assert_eq!(node(&leaders), Some(11));
    }

    #[test]
    fn pointing_corrects_within_a_term_and_a_later_term_corrects_pointing() {
        let mut leaders = Leaders::default();
        leaders.heard(1, 10, 5);
        leaders.pointed(1, &LeaderAddress { node_id: 12, address: "c:1".into() });
        assert_eq!(leaders.of(1).unwrap().address.as_deref(), Some("c:1"));
        assert!(!leaders.heard(1, 10, 5));
        assert_eq!(node(&leaders), Some(12));
        assert!(leaders.heard(1, 10, 6));
        assert_eq!(node(&leaders), Some(10));
    }

    #[test]
    fn a_doubted_leader_is_forgotten_once() {
        let mut leaders = Leaders::default();
        leaders.heard(1, 10, 5);
        leaders.doubt(1, 11);
        assert_eq!(node(&leaders), Some(10));
        leaders.doubt(1, 10);
        assert_eq!(node(&leaders), None);
        assert!(!leaders.heard(1, 10, 4));
        assert!(leaders.heard(1, 10, 5));
    }

    #[test]
    fn replicas_are_asked_in_turn_when_the_leader_fails() {
        let replicas = [1, 2, 3];
        assert_eq!(candidate(Some(2), &replicas, &[]), Some(2));
        assert_eq!(candidate(Some(2), &replicas, &[2]), Some(1));
        assert_eq!(candidate(None, &replicas, &[1, 2]), Some(3));
        assert_eq!(candidate(Some(2), &replicas, &[1, 2, 3]), None);
        // A leader that the map does not list yet.
        assert_eq!(candidate(Some(9), &replicas, &[]), Some(9));
    }
}
