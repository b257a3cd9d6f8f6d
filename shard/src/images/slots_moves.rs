//! What the commands that move slots change: pure, as all of [`super::plan`].

use std::sync::Arc;

use omma_common::slot::slot_of;
use omma_proto::internal::v1::{
    ImageOutcome, ImageRefusal, ImportRecords, PurgeRecords, SlotState, StepSlots, StoredAnswer,
};

use super::command::refused;
use super::keys::{self, RECORDS_PER_COMMAND, RecordKey};
use super::plan::{Planner, View};
use crate::format::seal;
use crate::group::state_machine::StateError;

impl<V: View> Planner<'_, V> {
    pub(super) fn step_slots(&mut self, index: u64, step: &StepSlots) -> ImageOutcome {
        let mut slots = (*self.slots).clone();
        match slots.step(index, step) {
            Ok(()) => {
                (self.slots, self.slots_changed) = (Arc::new(slots), true);
                ImageOutcome::default()
            }
            Err(_) => refused(ImageRefusal::OutOfStep),
        }
    }

    /// Notes an image that goes away while its slot leaves, whether it is there or not: after a snapshot it may be gone
    /// already when its removal is applied.
    pub(super) fn note_removal(&mut self, uid: u64, key: RecordKey, id: &str) {
        if let Some(current) = self.slots.current().filter(|_| self.slots.is_leaving(id)) {
            self.batch.insert(keys::removal(current.move_id, uid, key), seal(id.as_bytes()));
        }
    }

    /// Takes over a batch of changes, if it is the next one.
    pub(super) fn import(&mut self, uid: u64, index: u64, import: ImportRecords) -> Result<ImageOutcome, StateError> {
        let ImportRecords { move_id, from, to, dropped_uids, removed_ids, dimension, quantization, records, answers } =
            import;
        let width = dimension as usize * size_of::<f32>();
        let malformed =
            records.len() > RECORDS_PER_COMMAND || records.iter().any(|r| r.embedding.len() != width || width == 0);
        let (Some(from), Some(to), false) = (from, to, malformed) else { return Ok(refused(ImageRefusal::Invalid)) };
        let mut slots = (*self.slots).clone();
        let Ok(arriving) = slots.import(move_id, from, to, records.len()) else {
            return Ok(refused(ImageRefusal::OutOfStep));
        };
        (self.slots, self.slots_changed) = (Arc::new(slots), true);
        for dropped in dropped_uids {
            if self.known_collection(dropped).is_none_or(|c| !c.dropped) {
                self.drop_collection(dropped);
            }
        }
        for id in removed_ids.into_iter().filter(|id| arriving.contains(slot_of(id))) {
            self.delete_id(uid, index, id)?;
        }
        if !records.is_empty() {
            let collection = self.collection_mut(uid, dimension, quantization);
            if !collection.dropped && collection.dimension == dimension {
                let ours = |id: &str| arriving.contains(slot_of(id));
                for (place, record) in records.into_iter().enumerate().filter(|(_, record)| ours(&record.id)) {
                    self.put_record(uid, keys::record_key(index, place), record)?;
                }
            }
        }
        for (place, answer) in (1..).zip(answers) {
            if !self.knows_answer(&answer) {
                self.keep_answer(StoredAnswer { index, place, ..answer });
            }
        }
        Ok(ImageOutcome::default())
    }

    /// Removes images of slots that are gone.
    pub(super) fn purge(&mut self, uid: u64, index: u64, purge: PurgeRecords) -> Result<ImageOutcome, StateError> {
        let mut deleted_count = 0;
        for id in purge.ids {
            if self.slots.state(slot_of(&id)) == SlotState::Gone {
                deleted_count += u32::from(self.delete_id(uid, index, id)?);
            }
        }
        Ok(ImageOutcome { deleted_count, ..ImageOutcome::default() })
    }
}
