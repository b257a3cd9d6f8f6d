//! What committed commands change: pure decisions over a view of the state.
//!
//! Commands may be applied again: after a snapshot, which may hold effects of entries that come later. Two rules make
//! that harmless: a record's key comes from the log, so the same command writes the same key; and what is stored under
//! a newer key is never touched by an older command.

mod records;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use omma_common::slot::slot_of;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{
    DeleteRecords, ImageCommand, ImageOutcome, ImageRefusal, PutRecord, PutRecords, StoredAnswer, StoredCollection,
    StoredRecord,
};
use omma_proto::v1::AttributeValue;
use prost::Message;

use super::answers::{Answers, fits};
use super::command::{fingerprint, parts, refused, slot_of_part};
use super::keys::{self, RECORDS_PER_COMMAND, RecordKey};
use super::retry::{self, Known};
use super::slots::Slots;
use crate::format::seal_message;
use crate::group::state_machine::StateError;
use crate::store::Batch;

/// The state before the entries that are being planned.
pub(super) trait View {
    fn slots(&self) -> Arc<Slots>;
    fn collection(&self, uid: u64) -> Option<StoredCollection>;
    fn key_of(&self, uid: u64, id: &str) -> Result<Option<RecordKey>, StateError>;
    fn record(&self, uid: u64, key: RecordKey) -> Result<Option<StoredRecord>, StateError>;
    fn embedding(&self, uid: u64, key: RecordKey) -> Result<Option<Vec<f32>>, StateError>;
}

/// A change of a collection's index, to be made in this order.
#[derive(Debug, PartialEq)]
pub(super) enum IndexChange {
    Insert { uid: u64, key: RecordKey, embedding: Vec<f32>, attributes: BTreeMap<String, AttributeValue> },
    Remove { uid: u64, key: RecordKey },
}

/// A record that an earlier entry of the same batch wrote or removed.
type Overlaid = Option<PutRecord>;

/// Gathers the changes of several entries into one batch.
pub(super) struct Planner<'a, V> {
    view: &'a V,
    answers: &'a mut Answers,
    ids: HashMap<(u64, String), Option<RecordKey>>,
    records: HashMap<(u64, RecordKey), Overlaid>,
    /// Collections as they will be.
    pub(super) collections: HashMap<u64, StoredCollection>,
    pub(super) batch: Batch,
    pub(super) index: Vec<IndexChange>,
    /// As they will be.
    pub(super) slots: Arc<Slots>,
    /// Whether they are others than before.
    pub(super) slots_changed: bool,
}

impl<'a, V: View> Planner<'a, V> {
    pub(super) fn new(view: &'a V, answers: &'a mut Answers) -> Self {
        Self {
            view,
            answers,
            ids: HashMap::new(),
            records: HashMap::new(),
            collections: HashMap::new(),
            batch: Batch::default(),
            index: Vec::new(),
            slots: view.slots(),
            slots_changed: false,
        }
    }

    /// Plans one command; returns its encoded outcome.
    pub(super) fn command(&mut self, index: u64, bytes: &Bytes) -> Result<Bytes, StateError> {
        let Ok(command) = ImageCommand::decode(bytes.clone()) else {
            return Ok(refused(ImageRefusal::Invalid).encode_to_vec().into());
        };
        let uid = command.collection_uid;
        let (Some(asked), request_id) = (command.command, command.request_id) else {
            return Ok(refused(ImageRefusal::Invalid).encode_to_vec().into());
        };
        let (fingerprint, parts) = match request_id.is_empty() {
            true => (Bytes::new(), Vec::new()),
            false => (fingerprint(&asked), parts(&asked)),
        };
        let may_be_new = |part| self.slots.may_be_new(slot_of_part(part));
        let outcome = match retry::known(self.answers.get(uid, &request_id), &fingerprint, &parts, may_be_new) {
            Known::Whole(outcome) => return Ok(outcome),
            Known::Other => return Ok(refused(ImageRefusal::RequestIdReused).encode_to_vec().into()),
            Known::New => self.execute(uid, index, asked)?,
            Known::Parts(known) => self.execute_rest(uid, index, asked, &known)?,
        };
        // It was not carried out, so that it may be elsewhere, or here later.
        if outcome.refusal() == ImageRefusal::SlotsMoved {
            return Ok(outcome.encode_to_vec().into());
        }
        // After a snapshot not all is there that was when this was decided first.
        let foreseen = self.answers.take_foreseen(index);
        let outcome = foreseen.unwrap_or_else(|| Bytes::from(outcome.encode_to_vec()));
        if !request_id.is_empty() {
            let (collection_uid, outcome, place) = (uid, outcome.clone(), 0);
            self.keep_answer(StoredAnswer { index, collection_uid, request_id, outcome, fingerprint, parts, place });
        }
        Ok(outcome)
    }

    fn execute(&mut self, uid: u64, index: u64, asked: Command) -> Result<ImageOutcome, StateError> {
        match asked {
            Command::Put(put) => self.put(uid, index, put),
            Command::Delete(delete) => self.delete(uid, index, delete),
            Command::Drop(_) => Ok(self.drop_collection(uid)),
            Command::StepSlots(step) => Ok(self.step_slots(index, &step)),
            Command::Import(import) => self.import(uid, index, import),
            Command::Purge(purge) => self.purge(uid, index, purge),
        }
    }

    /// Carries out what of a command is not `known` yet.
    fn execute_rest(
        &mut self,
        uid: u64,
        index: u64,
        asked: Command,
        known: &[Option<retry::Effect>],
    ) -> Result<ImageOutcome, StateError> {
        let is_delete = matches!(asked, Command::Delete(_));
        let outcome = match known.iter().any(Option::is_none) {
            true => self.execute(uid, index, retry::unknown(asked, known))?,
            false => ImageOutcome::default(),
        };
        Ok(retry::complete(outcome, known, is_delete))
    }

    /// Adds the collections' new counts and digests; the plan is complete then.
    pub(super) fn finish(&mut self) {
        for (uid, collection) in &self.collections {
            self.batch.insert(keys::collection(*uid), seal_message(collection));
        }
        if self.slots_changed {
            self.batch.insert(keys::SLOTS, seal_message(&self.slots.to_stored()));
        }
    }

    pub(super) fn keep_answer(&mut self, answer: StoredAnswer) {
        self.batch.insert(keys::answer(answer.index, answer.place), seal_message(&answer));
        if let Some((index, place)) = self.answers.keep(answer) {
            self.batch.remove(keys::answer(index, place));
        }
    }

    /// Whether an answer of another group is here already.
    pub(super) fn knows_answer(&self, answer: &StoredAnswer) -> bool {
        self.answers.get(answer.collection_uid, &answer.request_id).iter().any(|a| fits(a, &answer.fingerprint))
    }

    fn put(&mut self, uid: u64, index: u64, put: PutRecords) -> Result<ImageOutcome, StateError> {
        let width = put.dimension as usize * size_of::<f32>();
        let malformed =
            put.records.len() > RECORDS_PER_COMMAND || put.records.iter().any(|r| r.embedding.len() != width);
        if width == 0 || malformed {
            return Ok(refused(ImageRefusal::Invalid));
        }
        if !put.records.iter().all(|record| self.slots.writes(slot_of(&record.id))) {
            return Ok(refused(ImageRefusal::SlotsMoved));
        }
        let collection = self.collection_mut(uid, put.dimension, put.quantization);
        if collection.dropped {
            return Ok(refused(ImageRefusal::CollectionDropped));
        }
        if collection.dimension != put.dimension {
            return Ok(refused(ImageRefusal::Dimension));
        }
        let mut effects = Vec::with_capacity(put.records.len());
        for (place, record) in put.records.into_iter().enumerate() {
            effects.push(self.put_record(uid, keys::record_key(index, place), record)? as i32);
        }
        Ok(ImageOutcome { effects, ..ImageOutcome::default() })
    }

    fn delete(&mut self, uid: u64, index: u64, delete: DeleteRecords) -> Result<ImageOutcome, StateError> {
        if delete.ids.len() > RECORDS_PER_COMMAND {
            return Ok(refused(ImageRefusal::Invalid));
        }
        if !delete.ids.iter().all(|id| self.slots.writes(slot_of(id))) {
            return Ok(refused(ImageRefusal::SlotsMoved));
        }
        match self.known_collection(uid) {
            // Nothing was ever put here by this group's log.
            None => return Ok(retry::deleted(vec![false; delete.ids.len()])),
            Some(collection) if collection.dropped => return Ok(refused(ImageRefusal::CollectionDropped)),
            Some(_) => {}
        }
        let mut existed = Vec::with_capacity(delete.ids.len());
        for (place, id) in delete.ids.into_iter().enumerate() {
            self.note_removal(uid, keys::record_key(index, place), &id);
            existed.push(self.delete_id(uid, index, id)?);
        }
        Ok(retry::deleted(existed))
    }

    /// A collection as it will be, if this group's log ever named it.
    pub(super) fn known_collection(&self, uid: u64) -> Option<StoredCollection> {
        self.collections.get(&uid).cloned().or_else(|| self.view.collection(uid))
    }

    /// The records themselves are removed in the background: there may be millions.
    pub(super) fn drop_collection(&mut self, uid: u64) -> ImageOutcome {
        let collection = self.collection_mut(uid, 0, 0);
        let deleted_count = u32::try_from(collection.image_count).unwrap_or(u32::MAX);
        *collection = StoredCollection { uid, dropped: true, ..StoredCollection::default() };
        self.index.retain(|change| match change {
            IndexChange::Insert { uid: of, .. } | IndexChange::Remove { uid: of, .. } => *of != uid,
        });
        ImageOutcome { deleted_count, ..ImageOutcome::default() }
    }

    /// As it is, or a new one.
    pub(super) fn collection_mut(&mut self, uid: u64, dimension: u32, quantization: i32) -> &mut StoredCollection {
        let view = self.view;
        self.collections.entry(uid).or_insert_with(|| {
            let new = || StoredCollection { uid, dimension, quantization, ..StoredCollection::default() };
            view.collection(uid).unwrap_or_else(new)
        })
    }
}

#[cfg(test)]
mod tests;
