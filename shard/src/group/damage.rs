//! What was found damaged of this node's groups, by whoever met it.

use std::collections::BTreeMap;
use std::sync::Arc;

use omma_common::ids::GroupId;
use parking_lot::Mutex;

use super::log_record::Damaged;
use super::state_machine::StateError;

/// The first damage that was found in a group's log or state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// What, where.
    pub reason: String,
    /// Whether the vote is gone: then only another node may take this one's place, as it might vote twice.
    pub vote_lost: bool,
}

/// By group. Clones share it.
#[derive(Debug, Clone, Default)]
pub(super) struct DamageNotes(Arc<Mutex<BTreeMap<GroupId, Damage>>>);

impl DamageNotes {
    pub(super) fn note(&self, group: GroupId, damage: Damage) {
        self.0.lock().entry(group).or_insert_with(|| {
            tracing::error!(group, damage.reason, "a replica of this node is damaged");
            damage
        });
    }

    pub(super) fn log(&self, found: &Damaged) {
        self.note(found.group, Damage { reason: found.to_string(), vote_lost: found.is_vote() });
    }

    pub(super) fn state(&self, group: GroupId, error: &StateError) {
        if let StateError::Damaged { .. } = error {
            self.note(group, Damage { reason: error.to_string(), vote_lost: false });
        }
    }

    pub(super) fn forget(&self, group: GroupId) {
        self.0.lock().remove(&group);
    }

    pub(super) fn all(&self) -> BTreeMap<GroupId, Damage> {
        self.0.lock().clone()
    }

    pub(super) fn is_noted(&self, group: GroupId) -> bool {
        self.0.lock().contains_key(&group)
    }
}
