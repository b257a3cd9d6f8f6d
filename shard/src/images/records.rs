//! Reading records from the state's table.

use std::sync::Arc;

use omma_proto::internal::v1::{StoredCollection, StoredRecord};

use super::collection::Collections;
use super::keys::{self, RecordKey};
use super::plan::View;
use super::slots::Slots;
use crate::format::{open_embedding, open_message, open_u64};
use crate::group::state_machine::StateError;
use crate::store::Table;

/// A table and the collections in it.
pub(super) struct Records<'a> {
    pub(super) table: &'a Table,
    pub(super) collections: &'a Collections,
    pub(super) slots: Arc<Slots>,
}

impl View for Records<'_> {
    fn slots(&self) -> Arc<Slots> {
        self.slots.clone()
    }

    fn collection(&self, uid: u64) -> Option<StoredCollection> {
        self.collections.stored(uid)
    }

    fn key_of(&self, uid: u64, id: &str) -> Result<Option<RecordKey>, StateError> {
        key_of(self.table, uid, id)
    }

    fn record(&self, uid: u64, key: RecordKey) -> Result<Option<StoredRecord>, StateError> {
        record(self.table, uid, key)
    }

    fn embedding(&self, uid: u64, key: RecordKey) -> Result<Option<Vec<f32>>, StateError> {
        embedding(self.table, uid, key)
    }
}

/// The key of the record that an id names.
pub(super) fn key_of(table: &Table, uid: u64, id: &str) -> Result<Option<RecordKey>, StateError> {
    table.get(keys::id(uid, id))?.map(|v| open_u64("id entry", &v)).transpose()
}

/// The record under a key.
pub(super) fn record(table: &Table, uid: u64, key: RecordKey) -> Result<Option<StoredRecord>, StateError> {
    table.get(keys::record(uid, key))?.map(|v| open_message("record", &v)).transpose()
}

/// The embedding under a key.
pub(super) fn embedding(table: &Table, uid: u64, key: RecordKey) -> Result<Option<Vec<f32>>, StateError> {
    table.get(keys::embedding(uid, key))?.map(|v| open_embedding(&v)).transpose()
}

/// Keys and records of a collection from `first` on, in the order of keys.
pub(super) fn records_from(
    table: &Table,
    uid: u64,
    first: RecordKey,
) -> impl Iterator<Item = Result<(RecordKey, StoredRecord), StateError>> + Send + use<> {
    let range = keys::record(uid, first)..=keys::record(uid, RecordKey::MAX);
    table.range(range).map(|entry| {
        let (key, value) = entry?;
        let key = keys::trailing_key(&key)
            .ok_or_else(|| StateError::Damaged { what: "record".to_owned(), reason: "its key is cut".to_owned() })?;
        Ok((key, open_message("record", &value)?))
    })
}

/// Keys and embeddings of a collection's records from `first` on, in the order of keys.
pub(super) fn embeddings_from(
    table: &Table,
    uid: u64,
    first: RecordKey,
) -> impl Iterator<Item = Result<(RecordKey, Vec<f32>), StateError>> + Send + use<> {
    let range = keys::embedding(uid, first)..=keys::embedding(uid, RecordKey::MAX);
    table.range(range).map(|entry| {
        let (key, value) = entry?;
        let key = keys::trailing_key(&key)
            .ok_or_else(|| StateError::Damaged { what: "embedding".to_owned(), reason: "its key is cut".to_owned() })?;
        Ok((key, open_embedding(&value)?))
    })
}
