//! Opening a replica's state: what is on disk becomes collections with searchable indexes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use omma_common::ids::GroupId;
use omma_proto::internal::v1::{StoredAnswer, StoredCollection};
use parking_lot::{Mutex, RwLock};

use super::answers::Answers;
use super::checkpoint::{self, Covered, Found};
use super::collection::{Collection, Collections, IndexOptions};
use super::digests::Marks;
use super::keys::{self, RecordKey};
use super::recent::{Reads, Recent};
use super::records::{embeddings_from, records_from};
use super::slots::Slots;
use super::version::Version;
use crate::attributes::AttributeIndex;
use crate::format::{open_message, open_u64, seal};
use crate::group::state_machine::StateError;
use crate::index::LiveIndex;
use crate::metrics::REPLAYED_IMAGES;
use crate::store::{Batch, Store, Table};

/// One generation of a replica's state: a snapshot that is installed begins a new one.
pub(super) struct Contents {
    pub(super) generation: u64,
    /// Records, collections, answers, and what Raft stores.
    pub(super) table: Table,
    /// The folder of the checkpoints.
    pub(super) checkpoints: PathBuf,
    pub(super) collections: Collections,
    /// Held while entries are applied, from the first decision until the indexes follow.
    pub(super) answers: Mutex<Answers>,
    pub(super) applied: AtomicU64,
    /// Until this log index is applied, the state may hold effects of later entries; 0 once it is exact.
    pub(super) settled_at: AtomicU64,
    /// Digests at recent indexes.
    pub(super) marks: Mutex<Marks>,
    slots: RwLock<Arc<Slots>>,
    /// Of the slots: a read that finds another one afterwards may have missed what came or went.
    pub(super) slots_version: Version,
    /// Of what the index and the table hold: records went away if it is another.
    pub(super) removals: Version,
    /// What searches read.
    pub(super) reads: Reads,
}

const CATALOG: &str = "catalog";

fn state_name(group: GroupId, generation: u64) -> String {
    format!("state.{group}.{generation}")
}

/// The table that held checkpoints before they had stores of their own.
fn graphs_name(group: GroupId, generation: u64) -> String {
    format!("graphs.{group}.{generation}")
}

/// The folder of a generation's checkpoints.
pub(super) fn checkpoints_of(store: &Store, group: GroupId, generation: u64) -> PathBuf {
    store.path().join("checkpoints").join(format!("{group}.{generation}"))
}

/// The generation in use.
pub(super) fn current_generation(store: &Store, group: GroupId) -> Result<u64, StateError> {
    let value = store.table(CATALOG)?.get(group.to_be_bytes())?;
    value.map_or(Ok(0), |v| open_u64("catalog entry", &v))
}

/// Makes `generation` the one in use, durably.
pub(super) fn switch_generation(store: &Store, group: GroupId, generation: u64) -> Result<(), StateError> {
    store.flush()?;
    let mut batch = Batch::default();
    batch.insert(group.to_be_bytes(), seal(&generation.to_be_bytes()));
    store.table(CATALOG)?.apply(batch)?;
    Ok(store.flush()?)
}

/// Removes all that belongs to a generation.
pub(super) fn remove_generation(store: &Store, group: GroupId, generation: u64) -> Result<(), StateError> {
    store.drop_table(&state_name(group, generation))?;
    store.drop_table(&graphs_name(group, generation))?;
    checkpoint::remove_all(&checkpoints_of(store, group, generation))
}

/// Removes all that there ever was of a group, durably. Nobody may have it open.
pub(super) fn remove_all(store: &Store, group: GroupId) -> Result<(), StateError> {
    let generation = current_generation(store, group)?;
    for generation in generation.saturating_sub(1)..=generation + 1 {
        remove_generation(store, group, generation)?;
    }
    let mut batch = Batch::default();
    batch.remove(group.to_be_bytes());
    store.table(CATALOG)?.apply(batch)?;
    Ok(store.flush()?)
}

/// The table of a generation, to be filled.
pub(super) fn state_table(store: &Store, group: GroupId, generation: u64) -> Result<Table, StateError> {
    Ok(store.table(&state_name(group, generation))?)
}

impl Contents {
    /// Opens a generation, or makes it.
    pub(super) fn open(
        store: &Store,
        group: GroupId,
        generation: u64,
        options: IndexOptions,
        recent: &Recent,
    ) -> Result<Self, StateError> {
        let table = state_table(store, group, generation)?;
        store.drop_table(&graphs_name(group, generation))?;
        let number = |key: &[u8]| table.get(key)?.map_or(Ok(0), |v| open_u64("index", &v));
        let (applied, settled_at) = (number(keys::APPLIED)?, number(keys::SETTLED)?);
        let mut answers = Answers::default();
        for entry in table.prefix(keys::ANSWERS) {
            let answer: StoredAnswer = open_message("answer", &entry?.1)?;
            match answer.index <= applied {
                true => drop(answers.keep(answer)),
                false => answers.foresee(answer),
            }
        }
        let slots = table.get(keys::SLOTS)?.map(|v| open_message("slots", &v)).transpose()?;
        let slots = slots.map_or_else(Slots::default, Slots::from_stored);
        let contents = Self {
            generation,
            checkpoints: checkpoints_of(store, group, generation),
            collections: Collections::new(options),
            answers: Mutex::new(answers),
            applied: AtomicU64::new(applied),
            settled_at: AtomicU64::new(settled_at),
            marks: Mutex::default(),
            slots: RwLock::new(Arc::new(slots)),
            slots_version: Version::default(),
            removals: Version::default(),
            reads: recent.of(&table),
            table: table.clone(),
        };
        for entry in table.prefix(keys::COLLECTIONS) {
            let stored: StoredCollection = open_message("collection", &entry?.1)?;
            let live = match stored.dropped {
                true => None,
                false => Some(Arc::new(contents.open_collection(&stored)?)),
            };
            contents.collections.insert(stored, live);
        }
        if contents.is_settled() {
            contents.fill_tails()?;
        }
        Ok(contents)
    }

    /// Puts what is newer than the graphs into the tails, oldest first, and what is newer than the attribute indexes
    /// into those. Only then can the state be searched.
    pub(super) fn fill_tails(&self) -> Result<(), StateError> {
        for collection in self.collections.all_live() {
            let first = collection.covered.lock().watermark + 1;
            for entry in embeddings_from(&self.table, collection.uid, first) {
                let (key, embedding) = entry?;
                collection.index.insert(key, embedding);
                REPLAYED_IMAGES.inc();
            }
            let mut attributes = collection.attributes.write();
            let first = attributes.last_key().map_or(0, |last| last + 1);
            for entry in records_from(&self.table, collection.uid, first) {
                let (key, record) = entry?;
                attributes.insert(key, &record.attributes);
            }
        }
        Ok(())
    }

    /// Which slots are served.
    pub(super) fn slots(&self) -> Arc<Slots> {
        self.slots.read().clone()
    }

    /// Calls `change` while reads know that slots come or go; then these are the slots.
    pub(super) fn change_slots<T>(
        &self,
        slots: Option<Arc<Slots>>,
        change: impl FnOnce() -> Result<T, StateError>,
    ) -> Result<T, StateError> {
        let Some(slots) = slots else { return change() };
        self.slots_version.change(|| {
            let changed = change();
            if changed.is_ok() {
                *self.slots.write() = slots;
            }
            changed
        })
    }

    /// Calls `change` while searches know that records go away, if any do.
    pub(super) fn change_records<T>(&self, removes: bool, change: impl FnOnce() -> T) -> T {
        if removes { self.removals.change(change) } else { change() }
    }

    pub(super) fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// A collection with the graph of its newest good checkpoint.
    fn open_collection(&self, stored: &StoredCollection) -> Result<Collection, StateError> {
        let (uid, dimension) = (stored.uid, stored.dimension as usize);
        let options = self.collections.options();
        let Restored { index, covered, attributes } = match restore(&self.table, &self.checkpoints, stored, options) {
            Ok(Some(restored)) => restored,
            Ok(None) => Restored::nothing(LiveIndex::new(options.config(stored))?),
            Err(error @ StateError::Store(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(collection_uid = uid, %error, "checkpoint unusable: building the graph again from records");
                checkpoint::remove(&self.checkpoints, uid)?;
                Restored::nothing(LiveIndex::new(options.config(stored))?)
            }
        };
        Ok(Collection::new(uid, dimension, index, attributes, covered))
    }

    /// Whether the state is exactly that of its applied index.
    pub(super) fn is_settled(&self) -> bool {
        self.settled_at.load(Ordering::Acquire) == 0
    }
}

/// What a checkpoint gave.
struct Restored {
    index: LiveIndex,
    covered: Covered,
    attributes: AttributeIndex,
}

impl Restored {
    fn nothing(index: LiveIndex) -> Self {
        Self { index, covered: Covered::default(), attributes: AttributeIndex::default() }
    }
}

fn restore(
    table: &Table,
    checkpoints: &Path,
    stored: &StoredCollection,
    options: &IndexOptions,
) -> Result<Option<Restored>, StateError> {
    let Some(found) = checkpoint::read(checkpoints, stored.uid)? else { return Ok(None) };
    let covered = found.covered;
    let mut tombstones = Vec::new();
    for entry in table.prefix(&keys::tombstones(stored.uid)) {
        tombstones.extend(keys::trailing_key(&entry?.0).filter(|key| *key <= covered.watermark));
    }
    let config = options.config(stored);
    let attributes = restore_attributes(&found, &tombstones).unwrap_or_else(|error| {
        tracing::warn!(collection_uid = stored.uid, %error, "building the attribute index again from records");
        AttributeIndex::default()
    });
    let index = LiveIndex::restore(config, &found.graph, covered.watermark, tombstones)?;
    Ok(Some(Restored { index, covered, attributes }))
}

fn restore_attributes(found: &Found, removed: &[RecordKey]) -> Result<AttributeIndex, StateError> {
    AttributeIndex::restore(&found.attributes()?, removed.iter().copied())
        .map_err(|error| StateError::Damaged { what: "checkpoint".to_owned(), reason: error.to_string() })
}
