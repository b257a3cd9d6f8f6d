//! What becomes of damage: one group's copy is built again from its leader's, damaged stores end the process, and the
//! next start decides (see [`super::anew`]).

use std::path::Path;

use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_proto::internal::v1::Metadata;

use super::{Node, NodeError, anew, blocking, elsewhere};
use crate::group::state_machine::StateError;
use crate::group::{Damage, GroupError, GroupHost, Replica, Role};
use crate::metrics::REBUILT;
use crate::store::{Store, StoreError};

impl Node {
    /// Damaged copies of groups that others lead go, and are begun again. Called in turn with what starts replicas.
    pub(super) async fn abandon_damaged(&self, metadata: &Metadata) {
        let damaged = self.host.damaged();
        if damaged.is_empty() {
            return;
        }
        for group in damaged.keys() {
            if let Some(shard) = self.shard(*group).filter(|s| s.replica.status().role == Role::Leader) {
                shard.replica.hand_over().await;
            }
        }
        let led = elsewhere::led(&self.dialer, &metadata.nodes, self.node_id).await;
        for (group, damage) in damaged.into_iter().filter(|(group, d)| led.contains(group) && !d.vote_lost) {
            match self.abandon(group).await {
                Ok(()) => {
                    self.host.forget_damage(group);
                    REBUILT.inc();
                    tracing::error!(
                        group,
                        damage.reason,
                        "the damaged copy is given up and built again from the leader's"
                    );
                }
                Err(error) => tracing::error!(group, %error, "a damaged copy was not given up; trying again"),
            }
        }
    }

    /// Whether nobody else has a copy of a group.
    fn is_only_copy(&self, group: GroupId) -> bool {
        let metadata = self.metadata.current();
        metadata.groups.iter().find(|g| g.group_id == group).is_some_and(|g| g.replicas.len() < 2)
    }

    /// Takes note of damage that a read has met, if there are copies to build it from; returns whether there are. Damage
    /// of the whole store is noted by itself.
    pub(crate) fn found_damaged(&self, group: GroupId, error: &StateError) -> bool {
        let others = !self.is_only_copy(group);
        if others && matches!(error, StateError::Damaged { .. }) {
            self.host.note_damage(group, error.to_string());
        }
        others
    }

    /// Those of `nodes` that said last that their disks are nearly full.
    pub(crate) fn without_room(&self, nodes: &[NodeId]) -> Vec<NodeId> {
        let said = self.without_room.lock();
        nodes.iter().copied().filter(|node| *node != self.node_id && said.get(node) == Some(&true)).collect()
    }

    /// What ends this process, if anything does.
    pub(super) async fn broken(&self) -> Option<NodeError> {
        if let Some(trouble) = self.store.trouble().or_else(|| self.host.store_trouble()) {
            return Some(match trouble {
                StoreError::Damaged { .. } => unusable(&self.config.data_dir, trouble.to_string()).await,
                other => other.into(),
            });
        }
        let damaged = self.host.damaged();
        for (group, damage) in &damaged {
            if *group == METADATA_GROUP || damage.vote_lost || self.is_only_copy(*group) {
                return Some(unusable(&self.config.data_dir, damage.reason.clone()).await);
            }
        }
        let shards = self.shards();
        let replicas = shards.iter().map(|s| &s.replica).chain(std::iter::once(&self.metadata_replica));
        let whole = replicas.filter(|r| !damaged.contains_key(&r.group()));
        whole.map(Replica::failure).find_map(|failure| failure).map(NodeError::Failed)
    }
}

/// What ends a process whose metadata replica did not start. Damage is noted, as if a running replica had met it: else every
/// start would end here, and none would join as a new node.
pub(super) async fn not_started(data_dir: &Path, store: &Store, host: &GroupHost, error: GroupError) -> NodeError {
    let trouble = store.trouble().or_else(|| host.store_trouble());
    let noted = host.damaged().remove(&METADATA_GROUP);
    let error = NodeError::Group(error);
    match met(&error, trouble, noted) {
        Some(reason) => unusable(data_dir, reason).await,
        None => error,
    }
}

/// The damage that a start has met. What went through openraft on its way does not say any more that it was damage.
fn met(error: &NodeError, trouble: Option<StoreError>, noted: Option<Damage>) -> Option<String> {
    let of_store = || trouble.filter(|t| matches!(t, StoreError::Damaged { .. })).map(|t| t.to_string());
    error.damage().or_else(of_store).or(noted.map(|damage| damage.reason))
}

/// The next start has to know: it may take a while until the damage is met again.
async fn unusable(data_dir: &Path, reason: String) -> NodeError {
    let (folder, noted) = (data_dir.to_owned(), reason.clone());
    if let Err(error) = blocking(move || anew::note(&folder, &noted)).await {
        tracing::error!(%error, "the damage could not be noted for the next start");
    }
    NodeError::Damaged { folder: data_dir.to_owned(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_that_a_start_meets_is_known_however_it_is_said() {
        let fatal = NodeError::Group(GroupError::Fatal { group: METADATA_GROUP, reason: "cannot be read".into() });
        let path = std::path::PathBuf::from("raft");
        let damaged = StoreError::Damaged { path: path.clone(), reason: "a flipped bit".into() };
        let said = NodeError::Group(GroupError::Store(damaged.clone()));
        assert!(met(&said, None, None).unwrap().contains("a flipped bit"));
        assert!(met(&fatal, Some(damaged), None).unwrap().contains("a flipped bit"));
        let noted = Damage { reason: "the checksum differs".into(), vote_lost: true };
        assert_eq!(met(&fatal, None, Some(noted)).as_deref(), Some("the checksum differs"));
        // Nothing is given up for want of room, or for an error that says nothing of damage.
        assert_eq!(met(&fatal, Some(StoreError::Full { path }), None), None);
        assert_eq!(met(&fatal, None, None), None);
    }
}
