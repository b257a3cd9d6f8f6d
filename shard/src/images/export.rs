//! Reading the changes of slots that leave the group, in batches, and the images that are left of them afterwards.
//!
//! Records have keys that grow with the log, removals are noted while the slots leave, answers have log indexes: so
//! "all changes from one index to another" are ranges. A batch says where it begins and ends; the group that imports
//! it keeps the end with its records, so that whoever carries batches needs no memory.

use omma_common::slot::{SlotSet, slot_of};
use omma_proto::internal::v1::{
    ImportRecords, PutRecord, SlotCursor, SlotState, StoredAnswer, StoredCollection, StoredRecord,
};
use prost::Message;

use super::command::slot_of_part;
use super::keys::{self, RecordKey};
use super::open::Contents;
use super::records::{embedding, records_from};
use super::slots::slot_set;
use super::state::ImageState;
use crate::format::open;
use crate::group::state_machine::StateError;

/// Most entries of a batch, removals, records and answers together.
const ENTRIES: usize = 512;
/// About the most bytes of a batch.
const BYTES: usize = 1 << 20;
/// Records that are looked at for one batch.
const LOOKS: usize = 20_000;
/// After all collections come the answers.
const ANSWERS: u64 = u64::MAX;

/// A batch, and whose records it has.
#[derive(Debug, Default)]
pub struct Batch {
    /// Of the records.
    pub uid: u64,
    /// As it is proposed to the other group.
    pub import: ImportRecords,
}

impl ImageState {
    /// The next changes of the slots that leave in `move_id`, after `cursor`; nothing but a cursor without a pass if
    /// there are none.
    pub fn export(&self, move_id: u64, cursor: SlotCursor) -> Result<Batch, StateError> {
        let contents = self.contents();
        if !contents.is_settled() {
            return Err(StateError::Settling);
        }
        let slots = contents.slots();
        let current = slots.current().filter(|m| m.move_id == move_id);
        let exports = |state| matches!(state, SlotState::Leaving | SlotState::Frozen);
        let leaving =
            current.filter(|m| exports(m.state())).map(|m| slot_set(&m.slots)).ok_or(StateError::SlotsMoved)?;
        let mut reader = Reader { contents: &contents, move_id, leaving, at: cursor, batch: Batch::default(), full: 0 };
        reader.batch.import = ImportRecords { move_id, from: Some(cursor), ..ImportRecords::default() };
        reader.read()?;
        reader.batch.import.to = Some(reader.at);
        Ok(reader.batch)
    }

    /// Images of the slots that were released in `move_id`: some of the first collection from `uid` on, there from `key`
    /// on. `None`: there are none. No new ones come, so that who has gone through has seen all.
    pub fn to_purge(&self, move_id: u64, uid: u64, key: RecordKey) -> Result<Option<Purge>, StateError> {
        let contents = self.contents();
        if !contents.is_settled() {
            return Err(StateError::Settling);
        }
        let slots = contents.slots();
        let released = slots.current().filter(|m| m.move_id == move_id && m.state() == SlotState::Gone);
        let gone = released.map(|m| slot_set(&m.slots)).ok_or(StateError::SlotsMoved)?;
        let live = contents.collections.all_stored().into_iter().filter(|c| !c.dropped && c.uid >= uid).map(|c| c.uid);
        let Some(first) = live.min() else { return Ok(None) };
        let mut purge = Purge { uid: first, ids: Vec::new(), next: (first + 1, 0) };
        let from = if first == uid { key } else { 0 };
        for (looks, entry) in records_from(&contents.table, first, from).enumerate() {
            let (key, record) = entry?;
            if looks == LOOKS || purge.ids.len() == ENTRIES {
                purge.next = (first, key);
                break;
            }
            if gone.contains(slot_of(&record.id)) {
                purge.ids.push(record.id);
            }
        }
        Ok(Some(purge))
    }
}

/// Images that are to be removed.
#[derive(Debug)]
pub struct Purge {
    /// Their collection.
    pub uid: u64,
    /// Their ids; perhaps none.
    pub ids: Vec<String>,
    /// Collection and key to go on from.
    pub next: (u64, RecordKey),
}

struct Reader<'a> {
    contents: &'a Contents,
    move_id: u64,
    leaving: SlotSet,
    at: SlotCursor,
    batch: Batch,
    /// Bytes so far.
    full: usize,
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), StateError> {
        let mut collections = self.contents.collections.all_stored();
        collections.sort_by_key(|c| c.uid);
        if self.at.until == 0 {
            let until = self.contents.applied();
            if until <= self.at.index {
                return Ok(());
            }
            self.at = SlotCursor { index: self.at.index, until, ..SlotCursor::default() };
            self.batch.import.dropped_uids = collections.iter().filter(|c| c.dropped).map(|c| c.uid).collect();
        }
        for collection in collections.iter().filter(|c| !c.dropped) {
            if collection.uid < self.at.collection_uid {
                continue;
            }
            // A batch has the records of one collection.
            let others = self.batch.uid != 0 && self.batch.uid != collection.uid;
            if others || !self.collection(collection)? {
                return Ok(());
            }
        }
        if self.at.collection_uid != ANSWERS {
            (self.at.collection_uid, self.at.records, self.at.key) = (ANSWERS, false, self.at.index);
        }
        if self.answers() {
            self.at = SlotCursor { index: self.at.until, ..SlotCursor::default() };
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        let import = &self.batch.import;
        self.full >= BYTES || import.removed_ids.len() + import.records.len() + import.answers.len() >= ENTRIES
    }

    /// Whether the collection was read to its end.
    fn collection(&mut self, collection: &StoredCollection) -> Result<bool, StateError> {
        let uid = collection.uid;
        if self.at.collection_uid != uid {
            (self.at.collection_uid, self.at.records, self.at.key) = (uid, false, first_key(self.at.index) - 1);
        }
        if !self.at.records {
            if !self.removals(uid)? {
                return Ok(false);
            }
            (self.at.records, self.at.key) = (true, first_key(self.at.index) - 1);
        }
        let done = self.records(collection)?;
        if done {
            let key = first_key(self.at.index) - 1;
            self.at = SlotCursor { collection_uid: uid + 1, records: false, key, ..self.at };
        }
        Ok(done)
    }

    fn removals(&mut self, uid: u64) -> Result<bool, StateError> {
        let range = keys::removal(self.move_id, uid, self.at.key + 1)..=keys::removal(self.move_id, uid, u64::MAX);
        for entry in self.contents.table.range(range) {
            let (table_key, value) = entry?;
            let key = keys::trailing_key(&table_key).unwrap_or(u64::MAX);
            if keys::index_of(key) > self.at.until {
                break;
            }
            if self.is_full() {
                return Ok(false);
            }
            let id = String::from_utf8_lossy(open("removal", &value)?).into_owned();
            self.full += id.len();
            self.batch.uid = uid;
            self.batch.import.removed_ids.push(id);
            self.at.key = key;
        }
        Ok(true)
    }

    fn records(&mut self, collection: &StoredCollection) -> Result<bool, StateError> {
        let uid = collection.uid;
        for (looks, entry) in records_from(&self.contents.table, uid, self.at.key + 1).enumerate() {
            let (key, stored) = entry?;
            if keys::index_of(key) > self.at.until {
                break;
            }
            if self.is_full() || looks == LOOKS {
                return Ok(false);
            }
            if self.leaving.contains(slot_of(&stored.id)) {
                self.record(collection, key, stored)?;
            }
            self.at.key = key;
        }
        Ok(true)
    }

    fn record(
        &mut self,
        collection: &StoredCollection,
        key: RecordKey,
        stored: StoredRecord,
    ) -> Result<(), StateError> {
        // One that goes away just now is noted as removed, or has a newer key.
        let Some(values) = embedding(&self.contents.table, collection.uid, key)? else { return Ok(()) };
        let record = PutRecord {
            id: stored.id,
            embedding: omma_common::vector::to_bytes(&values),
            attributes: stored.attributes,
            content_digest: stored.content_digest,
        };
        self.full += record.encoded_len();
        self.batch.uid = collection.uid;
        self.batch.import.dimension = collection.dimension;
        self.batch.import.quantization = collection.quantization;
        self.batch.import.records.push(record);
        Ok(())
    }

    /// Whether all answers were read. Those to one entry stay together.
    fn answers(&mut self) -> bool {
        let answers = self.contents.answers.lock();
        let concerned = |a: &StoredAnswer| a.parts.iter().any(|part| self.leaving.contains(slot_of_part(*part)));
        let mut found = Vec::new();
        let (mut full, mut last, mut done) = (self.full, self.at.key, true);
        for answer in answers.applied_after(self.at.key).take_while(|a| a.index <= self.at.until) {
            let room = full < BYTES && self.batch.import.records.len() + found.len() < ENTRIES;
            if answer.index != last && !room {
                done = false;
                break;
            }
            last = answer.index;
            if concerned(answer) {
                full += answer.encoded_len();
                found.push(answer.clone());
            }
        }
        self.at.key = last;
        self.batch.import.answers = found;
        done
    }
}

/// Of records of entries after log `index`.
fn first_key(index: u64) -> RecordKey {
    keys::record_key(index + 1, 0)
}
