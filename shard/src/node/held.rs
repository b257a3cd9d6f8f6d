//! Which shard groups this node has anything of on its disk, and how it gets rid of what it should not have.
//!
//! A copy is removed when the cluster map does not place it here and the group's leader says that this node is no
//! member. First the log goes (but for the vote, and how far the log went), then the state: what is left if the process
//! dies in between is removed when it starts again.

use std::collections::BTreeMap;
use std::time::Duration;

use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1::{Metadata, ObservedReplica};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Node, NodeError, blocking, peers};
use crate::format::{open, seal};
use crate::group::GroupError;
use crate::group::state_machine::StateError;
use crate::images::{ImageState, InUse};
use crate::metadata::concerns;
use crate::store::{Batch, Store, Table};

const TABLE: &str = "held";
const IN_USE: &[u8] = &[1];
const LEAVING: &[u8] = &[2];
/// Searches under way finish with a copy that is to be removed; after that it is tried again later.
const LAST_USES: Duration = Duration::from_secs(2);

/// What is known of one group's copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copy {
    InUse,
    /// To be removed; not to be opened again before.
    Leaving,
}

/// The groups, durably.
pub(crate) struct Held {
    table: Table,
    store: Store,
    copies: Mutex<BTreeMap<GroupId, Copy>>,
    /// Copies that are still looked at, until which they stay.
    last_uses: Mutex<BTreeMap<GroupId, InUse>>,
}

impl Held {
    pub(super) fn open(store: &Store) -> Result<Self, StateError> {
        let table = store.table(TABLE)?;
        let mut copies = BTreeMap::new();
        for entry in table.prefix(b"") {
            let (key, value) = entry?;
            let damaged = |reason: &str| StateError::Damaged { what: "list of groups".into(), reason: reason.into() };
            let group = GroupId::from_be_bytes(key.as_ref().try_into().map_err(|_| damaged("a key is no group"))?);
            let copy = match open("held group", &value)? {
                LEAVING => Copy::Leaving,
                _ => Copy::InUse,
            };
            copies.insert(group, copy);
        }
        Ok(Self { table, store: store.clone(), copies: Mutex::new(copies), last_uses: Mutex::default() })
    }

    /// All groups of which there is anything.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        self.copies.lock().keys().copied().collect()
    }

    fn is_leaving(&self, group: GroupId) -> bool {
        self.copies.lock().get(&group) == Some(&Copy::Leaving)
    }

    /// Notes, durably, that there is a copy from now on. Blocks.
    fn keep(&self, group: GroupId) -> Result<(), StateError> {
        if self.copies.lock().get(&group) == Some(&Copy::InUse) {
            return Ok(());
        }
        self.write(group, Some(Copy::InUse))
    }

    fn write(&self, group: GroupId, copy: Option<Copy>) -> Result<(), StateError> {
        let (mut batch, key) = (Batch::default(), group.to_be_bytes());
        match copy {
            Some(Copy::InUse) => batch.insert(key, seal(IN_USE)),
            Some(Copy::Leaving) => batch.insert(key, seal(LEAVING)),
            None => batch.remove(key),
        }
        self.table.apply(batch)?;
        self.store.flush()?;
        let mut copies = self.copies.lock();
        match copy {
            Some(copy) => drop(copies.insert(group, copy)),
            None => drop(copies.remove(&group)),
        }
        Ok(())
    }
}

impl Node {
    /// Notes that there is a copy of `group` from now on; first removes what is left of an earlier one.
    pub(super) async fn hold(&self, group: GroupId) -> Result<(), NodeError> {
        let free = match self.held.is_leaving(group) {
            true => self.remove_copy(group).await?,
            false => self.unused(group).await,
        };
        if !free {
            return Err(GroupError::Unavailable { group, why: "an earlier copy is still in use" }.into());
        }
        let held = self.held.clone();
        Ok(blocking(move || held.keep(group)).await?)
    }

    /// Removes every copy that the cluster map does not place here and whose group does not count this node as a
    /// member. What cannot be removed yet is left for the next time.
    pub(super) async fn remove_strays(&self, metadata: &Metadata) {
        for group in self.held.groups() {
            let placed = metadata.groups.iter().find(|g| g.group_id == group);
            // Of a group that was retired no copy is needed, whoever was its member.
            let retired = placed.is_none() && metadata.retired_group_ids.contains(&group);
            if retired {
                self.stop_shard(group).await;
            } else if placed.is_none_or(|g| concerns(g, self.node_id)) {
                continue;
            }
            let replicas = placed.map_or(&[][..], |g| &g.replicas);
            if !retired && !self.held.is_leaving(group) {
                if !self.left(metadata, group, replicas).await {
                    continue;
                }
                self.stop_shard(group).await;
                // Once more: a replica that does not run cannot become a member that counts.
                if !self.left(metadata, group, replicas).await {
                    continue;
                }
            }
            match self.remove_copy(group).await {
                Ok(true) => tracing::info!(group, retired, "removed this node's copy"),
                Ok(false) => {}
                Err(error) => tracing::error!(group, %error, "a copy that is not needed any more was not removed"),
            }
        }
    }

    /// Whether the group's leader says that this node is no member.
    async fn left(&self, metadata: &Metadata, group: GroupId, replicas: &[NodeId]) -> bool {
        for peer in metadata.nodes.iter().filter(|n| replicas.contains(&n.node_id)) {
            let Ok(seen) = peers::observe(&self.dialer, &peer.address).await else { continue };
            if let Some(replica) = seen.replicas.iter().find(|r| r.group_id == group && r.leads) {
                return is_outside(replica, self.node_id);
            }
        }
        false
    }

    /// Gives a copy up: its replica stops, and is begun again when what is stored of it is removed.
    pub(super) async fn abandon(&self, group: GroupId) -> Result<(), NodeError> {
        let held = self.held.clone();
        blocking(move || held.write(group, Some(Copy::Leaving))).await?;
        self.stop_shard(group).await;
        Ok(())
    }

    async fn stop_shard(&self, group: GroupId) {
        let shard = self.shards.write().remove(&group);
        self.host.stop(group).await;
        if let Some(shard) = shard {
            self.held.last_uses.lock().insert(group, shard.state.in_use());
            // Joins its maintenance thread.
            blocking(move || drop(shard)).await;
        }
    }

    /// Whether nobody looks at a stopped copy any more.
    async fn unused(&self, group: GroupId) -> bool {
        let used = || self.held.last_uses.lock().get(&group).is_some_and(InUse::still);
        let until = Instant::now() + LAST_USES;
        while used() {
            if Instant::now() > until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.held.last_uses.lock().remove(&group);
        true
    }

    /// Whether nothing of the group is left. Its replica must not run.
    async fn remove_copy(&self, group: GroupId) -> Result<bool, NodeError> {
        let held = self.held.clone();
        blocking(move || held.write(group, Some(Copy::Leaving))).await?;
        self.host.erase(group).await?;
        if !self.unused(group).await {
            return Ok(false);
        }
        let (held, store) = (self.held.clone(), self.store.clone());
        let removed = move || ImageState::remove(&store, group).and_then(|()| held.write(group, None));
        blocking(removed).await?;
        Ok(true)
    }
}

/// Whether `node` is no member, for certain.
fn is_outside(leader: &ObservedReplica, node: NodeId) -> bool {
    leader.members_committed
        && !leader.joint
        && !leader.voter_ids.contains(&node)
        && !leader.learner_ids.contains(&node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_known_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 16 << 20, Duration::from_secs(1)).unwrap();
        let held = Held::open(&store).unwrap();
        held.keep(1).unwrap();
        held.keep(2).unwrap();
        held.write(2, Some(Copy::Leaving)).unwrap();
        held.keep(3).unwrap();
        held.write(3, None).unwrap();
        let again = Held::open(&store).unwrap();
        assert_eq!(again.groups(), [1, 2]);
        assert!(again.is_leaving(2) && !again.is_leaving(1));
    }

    #[test]
    fn only_committed_members_count() {
        let members = |voter_ids: &[u64], learner_ids: &[u64]| ObservedReplica {
            members_committed: true,
            voter_ids: voter_ids.to_vec(),
            learner_ids: learner_ids.to_vec(),
            ..ObservedReplica::default()
        };
        assert!(is_outside(&members(&[1, 2], &[3]), 4));
        assert!(!is_outside(&members(&[1, 2], &[3]), 3) && !is_outside(&members(&[1, 2], &[3]), 1));
        assert!(!is_outside(&ObservedReplica { members_committed: false, ..members(&[1], &[]) }, 4));
        assert!(!is_outside(&ObservedReplica { joint: true, ..members(&[1], &[]) }, 4));
    }
}
