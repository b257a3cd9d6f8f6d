//! New rules of the metadata, once all nodes know them.

use omma_proto::internal::v1::Node;
use omma_proto::v1::NodeState;

use super::{Health, Step, View};

/// Raises the rules to the newest that every node knows. One that is silent may return with an older version.
pub(super) fn next(view: &View) -> Option<Step> {
    let knows = |node: &Node| match view.nodes.get(&node.node_id) {
        Some(known) if known.health == Health::Up => known.rules,
        _ => 0,
    };
    let there = view.metadata.nodes.iter().filter(|node| node.state() != NodeState::Replaced);
    let rules = there.map(knows).min()?;
    (rules > view.metadata.rules).then_some(Step::RaiseRules { rules })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use omma_proto::internal::v1::{DiskRoom, Metadata};

    use super::*;
    use crate::metadata::planner::NodeView;

    #[test]
    fn rules_are_raised_to_what_every_node_knows() {
        let node = |node_id, state: NodeState| Node { node_id, state: state.into(), ..Node::default() };
        let active = NodeState::Active;
        let nodes = vec![node(1, active), node(2, active), node(3, NodeState::Drained), node(4, NodeState::Replaced)];
        let metadata = Metadata { nodes, rules: 3, ..Metadata::default() };
        let raised = |known: [(Health, u32); 3]| {
            let view = |(health, rules)| NodeView { health, held: BTreeSet::new(), room: DiskRoom::Ample, rules };
            let nodes: BTreeMap<_, _> = (1..).zip(known.map(view)).collect();
            next(&View { metadata: &metadata, nodes: &nodes, groups: &BTreeMap::new(), may_transfer: true })
        };
        let up = |rules| (Health::Up, rules);
        assert_eq!(raised([up(5), up(4), up(5)]), Some(Step::RaiseRules { rules: 4 }));
        assert_eq!(raised([up(5), up(3), up(5)]), None);
        assert_eq!(raised([up(5), up(5), up(0)]), None, "an older version");
        assert_eq!(raised([up(5), up(5), (Health::Away, 5)]), None);
    }
}
