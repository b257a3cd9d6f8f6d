//! What becomes of single records: written, replaced, removed, or left as they are.

use omma_proto::internal::v1::{PutRecord, StoredRecord};
use omma_proto::v1::PutEffect;

use super::{IndexChange, Planner, View};
use crate::format::{seal, seal_message};
use crate::group::state_machine::StateError;
use crate::images::digest::Digest;
use crate::images::keys::{self, RecordKey};

impl<V: View> Planner<'_, V> {
    pub(in crate::images) fn put_record(
        &mut self,
        uid: u64,
        key: RecordKey,
        record: PutRecord,
    ) -> Result<PutEffect, StateError> {
        let old = self.key_of(uid, &record.id)?;
        let effect = match old {
            None => PutEffect::Created,
            Some(old) if old >= key => return Ok(PutEffect::Unchanged),
            Some(old) if self.holds(uid, old, &record)? => return Ok(PutEffect::Unchanged),
            Some(old) => {
                self.remove_record(uid, old)?;
                PutEffect::Replaced
            }
        };
        self.write_record(uid, key, record)?;
        Ok(effect)
    }

    fn write_record(&mut self, uid: u64, key: RecordKey, record: PutRecord) -> Result<(), StateError> {
        let digest = Digest::of(uid, key, &record);
        self.tally(uid, 1, |sum| *sum += digest);
        let stored = StoredRecord {
            id: record.id.clone(),
            attributes: record.attributes.clone(),
            content_digest: record.content_digest.clone(),
            record_digest: digest.to_bytes().into(),
        };
        self.batch.insert(keys::id(uid, &record.id), seal(&key.to_be_bytes()));
        self.batch.insert(keys::record(uid, key), seal_message(&stored));
        self.batch.insert(keys::embedding(uid, key), seal(&record.embedding));
        let embedding = omma_common::vector::from_bytes(&record.embedding)
            .map_err(|e| StateError::Damaged { what: "command".to_owned(), reason: e.to_string() })?;
        self.index.push(IndexChange::Insert { uid, key, embedding, attributes: record.attributes.clone() });
        self.ids.insert((uid, record.id.clone()), Some(key));
        self.records.insert((uid, key), Some(record));
        Ok(())
    }

    /// Removes a record whose id is about to be given to another, or to none.
    fn remove_record(&mut self, uid: u64, key: RecordKey) -> Result<(), StateError> {
        let digest = match self.records.get(&(uid, key)) {
            Some(Some(record)) => Digest::of(uid, key, record),
            Some(None) => return Ok(()),
            None => match self.view.record(uid, key)? {
                Some(stored) => Digest::from_bytes(&stored.record_digest),
                None => return Ok(()),
            },
        };
        self.tally(uid, -1, |sum| *sum -= digest);
        self.batch.remove(keys::record(uid, key));
        self.batch.remove(keys::embedding(uid, key));
        self.batch.insert(keys::tombstone(uid, key), []);
        self.index.push(IndexChange::Remove { uid, key });
        self.records.insert((uid, key), None);
        Ok(())
    }

    /// Removes an image, unless it is newer than the command at `index`. Whether there was one.
    pub(in crate::images) fn delete_id(&mut self, uid: u64, index: u64, id: String) -> Result<bool, StateError> {
        let Some(key) = self.key_of(uid, &id)?.filter(|key| *key < keys::record_key(index, 0)) else {
            return Ok(false);
        };
        self.remove_record(uid, key)?;
        self.batch.remove(keys::id(uid, &id));
        self.ids.insert((uid, id), None);
        Ok(true)
    }

    fn tally(&mut self, uid: u64, count: i64, change: impl FnOnce(&mut Digest)) {
        let collection = self.collection_mut(uid, 0, 0);
        let mut digest = Digest::from_bytes(&collection.digest);
        change(&mut digest);
        collection.digest = digest.to_bytes().into();
        collection.image_count = collection.image_count.saturating_add_signed(count);
    }

    fn key_of(&self, uid: u64, id: &str) -> Result<Option<RecordKey>, StateError> {
        match self.ids.get(&(uid, id.to_owned())) {
            Some(planned) => Ok(*planned),
            None => self.view.key_of(uid, id),
        }
    }

    /// Whether the record under `key` says the same as `record`.
    fn holds(&self, uid: u64, key: RecordKey, record: &PutRecord) -> Result<bool, StateError> {
        if let Some(planned) = self.records.get(&(uid, key)) {
            return Ok(planned.as_ref().is_some_and(|p| {
                p.attributes == record.attributes
                    && p.content_digest == record.content_digest
                    && (!p.content_digest.is_empty() || p.embedding == record.embedding)
            }));
        }
        let Some(stored) = self.view.record(uid, key)? else { return Ok(false) };
        if stored.attributes != record.attributes || stored.content_digest != record.content_digest {
            return Ok(false);
        }
        // The same picture is the same image, even if another machine's arithmetic embedded it.
        if !stored.content_digest.is_empty() {
            return Ok(true);
        }
        let embedding = self.view.embedding(uid, key)?;
        Ok(embedding.is_some_and(|e| omma_common::vector::to_bytes(&e) == record.embedding))
    }
}
