//! What tools do with the state of a replica while no node has it open.

use std::path::PathBuf;

use omma_common::ids::GroupId;
use omma_proto::internal::v1::StoredCollection;

use super::open::{checkpoints_of, current_generation, state_table};
use super::{checkpoint, keys};
use crate::format::open_message;
use crate::group::state_machine::StateError;
use crate::store::Store;

/// Reads and checks the checkpoints of `group`'s graphs; returns how many bytes the graphs have.
pub fn read_checkpoints(store: &Store, group: GroupId) -> Result<u64, StateError> {
    let (folder, uids) = checkpointed(store, group)?;
    let mut bytes = 0;
    for uid in uids {
        bytes += checkpoint::read(&folder, uid)?.map_or(0, |found| found.graph.len() as u64);
    }
    Ok(bytes)
}

/// Removes the checkpoints of `group`: the next start builds its graphs again from the records.
pub fn remove_checkpoints(store: &Store, group: GroupId) -> Result<(), StateError> {
    let (folder, uids) = checkpointed(store, group)?;
    uids.into_iter().try_for_each(|uid| checkpoint::remove(&folder, uid))
}

/// The folder of the checkpoints, and the collections that may have one in it.
fn checkpointed(store: &Store, group: GroupId) -> Result<(PathBuf, Vec<u64>), StateError> {
    let generation = current_generation(store, group)?;
    let collections = state_table(store, group, generation)?;
    let uids = collections.prefix(keys::COLLECTIONS).map(|entry| {
        let stored: StoredCollection = open_message("collection", &entry?.1)?;
        Ok(stored.uid)
    });
    Ok((checkpoints_of(store, group, generation), uids.collect::<Result<_, StateError>>()?))
}
