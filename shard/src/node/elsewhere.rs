//! Whether the cluster can do without what this node holds.

use std::collections::BTreeSet;

use futures::future::join_all;
use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_common::tls::Dialer;
use omma_proto::internal::v1::{Metadata, Node};
use omma_proto::v1::NodeState;

use super::peers;
use crate::metadata::concerns;

/// The groups that other nodes lead, hearing from a majority. A leader's log has everything that was acknowledged: what a
/// node holds of such a group can be lost.
pub(super) async fn led(dialer: &Dialer, nodes: &[Node], me: NodeId) -> BTreeSet<GroupId> {
    let others = nodes.iter().filter(|n| n.node_id != me && n.state() != NodeState::Replaced);
    let asked = others.map(|n| async move {
        let said = peers::observe(dialer, &n.address).await.ok().filter(|said| said.node_id == n.node_id)?;
        Some(said.replicas.into_iter().filter(|r| r.leads).map(|r| r.group_id).collect::<Vec<_>>())
    });
    join_all(asked).await.into_iter().flatten().flatten().collect()
}

/// Why the cluster may lose something if this node starts anew; `Ok` if it cannot. `addresses` are those of other nodes.
pub(super) async fn can_do_without(dialer: &Dialer, addresses: &[String], me: NodeId) -> Result<(), String> {
    let mut last = "it has no peers (--peers)".to_owned();
    let mut known = addresses.to_vec();
    for address in addresses {
        if let Ok(metadata) = peers::metadata(dialer, address, false).await {
            known.extend(metadata.nodes.into_iter().filter(|n| n.node_id != me).map(|n| n.address));
            break;
        }
    }
    for address in &known {
        // Linearizable: only the metadata's leader answers, and knows where every group is.
        match peers::metadata(dialer, address, true).await {
            Ok(metadata) => return all_led(&metadata, me, &led(dialer, &metadata.nodes, me).await),
            Err(status) => last = format!("{address}: {}", status.message()),
        }
    }
    Err(last)
}

fn all_led(metadata: &Metadata, me: NodeId, led: &BTreeSet<GroupId>) -> Result<(), String> {
    let held = metadata.groups.iter().filter(|g| concerns(g, me)).map(|g| g.group_id);
    match std::iter::once(METADATA_GROUP).chain(held).find(|group| !led.contains(group)) {
        None => Ok(()),
        Some(METADATA_GROUP) => Err("the metadata group has no leader elsewhere".to_owned()),
        Some(group) => Err(format!("group {group} has no leader elsewhere")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::Group;

    #[test]
    fn every_group_of_this_node_must_be_led_by_another() {
        let group = |group_id, replicas: &[u64]| Group { group_id, replicas: replicas.to_vec(), ..Group::default() };
        let metadata = Metadata { groups: vec![group(1, &[7, 8]), group(2, &[8])], ..Metadata::default() };
        assert_eq!(all_led(&metadata, 7, &[METADATA_GROUP, 1].into()), Ok(()));
        assert!(all_led(&metadata, 7, &[METADATA_GROUP, 2].into()).unwrap_err().contains("group 1"));
        assert!(all_led(&metadata, 7, &[1, 2].into()).unwrap_err().contains("metadata"));
        assert!(all_led(&metadata, 8, &[METADATA_GROUP, 1].into()).is_err());
    }
}
