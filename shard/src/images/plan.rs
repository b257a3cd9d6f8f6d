//! What committed commands change: pure decisions over a view of the state.
//!
//! Commands may be applied again: after a snapshot, which may hold effects of entries that come later. Two rules make
//! that harmless: a record's key comes from the log, so the same command writes the same key; and what is stored under
//! a newer key is never touched by an older command.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use omma_common::slot::slot_of;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{
    DeleteRecords, ImageCommand, ImageOutcome, ImageRefusal, PutRecord, PutRecords, StoredAnswer, StoredCollection,
    StoredRecord,
};
use omma_proto::v1::{AttributeValue, PutEffect};
use prost::Message;

use super::answers::{Answers, fits};
use super::command::{fingerprint, parts, refused, slot_of_part};
use super::digest::Digest;
use super::keys::{self, RECORDS_PER_COMMAND, RecordKey};
use super::retry::{self, Known};
use super::slots::Slots;
use crate::format::{seal, seal_message};
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

    pub(super) fn put_record(&mut self, uid: u64, key: RecordKey, record: PutRecord) -> Result<PutEffect, StateError> {
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

    /// Removes an image, unless it is newer than the command at `index`. Whether there was one.
    pub(super) fn delete_id(&mut self, uid: u64, index: u64, id: String) -> Result<bool, StateError> {
        let Some(key) = self.key_of(uid, &id)?.filter(|key| *key < keys::record_key(index, 0)) else {
            return Ok(false);
        };
        self.remove_record(uid, key)?;
        self.batch.remove(keys::id(uid, &id));
        self.ids.insert((uid, id), None);
        Ok(true)
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

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::{DropRecords, ImageCommand};

    /// A view of nothing: all state is in the plan itself.
    struct Empty;
    impl View for Empty {
        fn slots(&self) -> Arc<Slots> {
            Arc::default()
        }
        fn collection(&self, _: u64) -> Option<StoredCollection> {
            None
        }
        fn key_of(&self, _: u64, _: &str) -> Result<Option<RecordKey>, StateError> {
            Ok(None)
        }
        fn record(&self, _: u64, _: RecordKey) -> Result<Option<StoredRecord>, StateError> {
            Ok(None)
        }
        fn embedding(&self, _: u64, _: RecordKey) -> Result<Option<Vec<f32>>, StateError> {
            Ok(None)
        }
    }

    fn put(request_id: &str, ids: &[&str], x: f32) -> Bytes {
        let records = ids
            .iter()
            .map(|id| PutRecord {
                id: (*id).to_owned(),
                embedding: omma_common::vector::to_bytes(&[x, 0.0]),
                ..PutRecord::default()
            })
            .collect();
        let command = Some(Command::Put(PutRecords { dimension: 2, records, ..PutRecords::default() }));
        ImageCommand { request_id: request_id.to_owned(), collection_uid: 1, command }.encode_to_vec().into()
    }

    fn delete(ids: &[&str]) -> Bytes {
        let ids = ids.iter().map(|id| (*id).to_owned()).collect();
        let command = Some(Command::Delete(DeleteRecords { ids }));
        ImageCommand { collection_uid: 1, command, ..ImageCommand::default() }.encode_to_vec().into()
    }

    fn run(planner: &mut Planner<'_, Empty>, index: u64, command: &Bytes) -> ImageOutcome {
        ImageOutcome::decode(planner.command(index, command).unwrap()).unwrap()
    }

    #[test]
    fn puts_are_created_replaced_or_unchanged() {
        let mut answers = Answers::default();
        let mut p = Planner::new(&Empty, &mut answers);
        let effects = |o: ImageOutcome| o.effects().collect::<Vec<_>>();
        assert_eq!(effects(run(&mut p, 1, &put("", &["a", "b"], 1.0))), [PutEffect::Created; 2]);
        assert_eq!(effects(run(&mut p, 2, &put("", &["a"], 1.0))), [PutEffect::Unchanged]);
        assert_eq!(effects(run(&mut p, 3, &put("", &["a"], -1.0))), [PutEffect::Replaced]);
        assert_eq!(run(&mut p, 4, &delete(&["a", "x"])).deleted_count, 1);
        assert_eq!(p.collections[&1].image_count, 1);
    }

    #[test]
    fn a_retry_has_no_second_effect() {
        let mut answers = Answers::default();
        let mut p = Planner::new(&Empty, &mut answers);
        let first = run(&mut p, 1, &put("r", &["a"], 1.0));
        run(&mut p, 2, &delete(&["a"]));
        assert_eq!(run(&mut p, 3, &put("r", &["a"], 1.0)), first);
        assert_eq!(p.collections[&1].image_count, 0);
    }

    #[test]
    fn a_request_id_stands_for_one_request() {
        let mut answers = Answers::default();
        let mut p = Planner::new(&Empty, &mut answers);
        run(&mut p, 1, &put("r", &["a"], 1.0));
        let delete = Command::Delete(DeleteRecords { ids: vec!["a".into()] });
        let others = [put("r", &["b"], 1.0), put("r", &["a"], -1.0), super::super::command::encode("r", 1, delete)];
        for (other, index) in others.iter().zip(2..) {
            assert_eq!(run(&mut p, index, other).refusal(), ImageRefusal::RequestIdReused);
        }
        assert_eq!(p.collections[&1].image_count, 1);
    }

    #[test]
    fn applying_again_changes_nothing() {
        let mut answers = Answers::default();
        let mut p = Planner::new(&Empty, &mut answers);
        let log = [put("", &["a"], 1.0), put("", &["a", "b"], -1.0), delete(&["b"]), put("", &["b"], 1.0)];
        log.iter().zip(1..).for_each(|(c, i)| drop(run(&mut p, i, c)));
        let (before, keys) = (p.collections[&1].clone(), p.ids.clone());
        log.iter().zip(1..).for_each(|(c, i)| drop(run(&mut p, i, c)));
        assert_eq!((&p.collections[&1], &p.ids), (&before, &keys));
    }

    #[test]
    fn a_dropped_collection_refuses_for_ever() {
        let mut answers = Answers::default();
        let mut p = Planner::new(&Empty, &mut answers);
        run(&mut p, 1, &put("", &["a"], 1.0));
        let command = Some(Command::Drop(DropRecords {}));
        let drop = ImageCommand { collection_uid: 1, command, ..ImageCommand::default() }.encode_to_vec().into();
        assert_eq!(run(&mut p, 2, &drop).deleted_count, 1);
        assert_eq!(run(&mut p, 3, &put("", &["a"], 1.0)).refusal(), ImageRefusal::CollectionDropped);
        assert_eq!(run(&mut p, 4, &delete(&["a"])).refusal(), ImageRefusal::CollectionDropped);
        assert!(p.index.is_empty());
    }

    #[test]
    fn malformed_commands_are_refused() {
        let mut answers = Answers::default();
        let mut p = Planner::new(&Empty, &mut answers);
        assert_eq!(run(&mut p, 1, &Bytes::from_static(&[0xff; 7])).refusal(), ImageRefusal::Invalid);
        assert_eq!(run(&mut p, 2, &Bytes::new()).refusal(), ImageRefusal::Invalid);
        run(&mut p, 3, &put("", &["a"], 1.0));
        let other = PutRecords {
            dimension: 1,
            records: vec![PutRecord { id: "a".into(), embedding: vec![0; 4].into(), ..PutRecord::default() }],
            ..PutRecords::default()
        };
        let wrong = ImageCommand { collection_uid: 1, command: Some(Command::Put(other)), ..ImageCommand::default() };
        assert_eq!(run(&mut p, 4, &wrong.encode_to_vec().into()).refusal(), ImageRefusal::Dimension);
    }
}
