//! What becomes of damage: one group's copy is built again from its leader's, damaged stores end the process, and the
//! next start decides (see [`super::anew`]).

use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_proto::internal::v1::Metadata;

use super::{Node, NodeError, anew, blocking, elsewhere};
use crate::group::state_machine::StateError;
use crate::group::{Replica, Role};
use crate::metrics::REBUILT;
use crate::store::StoreError;

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
                StoreError::Damaged { .. } => self.unusable(trouble.to_string()).await,
                other => other.into(),
            });
        }
        let damaged = self.host.damaged();
        for (group, damage) in &damaged {
            if *group == METADATA_GROUP || damage.vote_lost || self.is_only_copy(*group) {
                return Some(self.unusable(damage.reason.clone()).await);
            }
        }
        let shards = self.shards();
        let replicas = shards.iter().map(|s| &s.replica).chain(std::iter::once(&self.metadata_replica));
        let whole = replicas.filter(|r| !damaged.contains_key(&r.group()));
        whole.map(Replica::failure).find_map(|failure| failure).map(NodeError::Failed)
    }

    /// The next start has to know: it may take a while until the damage is met again.
    async fn unusable(&self, reason: String) -> NodeError {
        let (data_dir, noted) = (self.config.data_dir.clone(), reason.clone());
        if let Err(error) = blocking(move || anew::note(&data_dir, &noted)).await {
            tracing::error!(%error, "the damage could not be noted for the next start");
        }
        NodeError::Damaged { folder: self.config.data_dir.clone(), reason }
    }
}
