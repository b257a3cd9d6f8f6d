//! The collections of a replica, in memory: counts, digests and indexes.

use std::collections::HashMap;
use std::sync::Arc;

use omma_proto::internal::v1::StoredCollection;
use omma_proto::v1::Quantization;
use parking_lot::{Mutex, RwLock};

use super::audit::Audit;
use super::checkpoint::Covered;
use super::digest::Digest;
use crate::attributes::AttributeIndex;
use crate::group::state_machine::StateError;
use crate::index::{IndexConfig, IndexError, LiveIndex, Storage};

/// A collection that can be searched.
pub(super) struct Collection {
    pub(super) uid: u64,
    pub(super) dimension: usize,
    pub(super) index: LiveIndex,
    pub(super) attributes: RwLock<AttributeIndex>,
    /// What the newest checkpoint covers.
    pub(super) covered: Mutex<Covered>,
    pub(super) audit: Mutex<Audit>,
}

impl Collection {
    pub(super) fn new(
        uid: u64,
        dimension: usize,
        index: LiveIndex,
        attributes: AttributeIndex,
        covered: Covered,
    ) -> Self {
        let (attributes, covered) = (RwLock::new(attributes), Mutex::new(covered));
        Self { uid, dimension, index, attributes, covered, audit: Mutex::default() }
    }
}

struct Entry {
    stored: StoredCollection,
    /// `None` once it is dropped.
    live: Option<Arc<Collection>>,
    /// Dropped, and known to have left nothing behind.
    cleared: bool,
}

/// How indexes are built.
#[derive(Debug, Clone)]
pub(super) struct IndexOptions {
    /// `None`: what suits the dimension.
    pub(super) storage: Option<Storage>,
    pub(super) threads: usize,
    pub(super) expansion_search: usize,
}

impl IndexOptions {
    pub(super) fn config(&self, stored: &StoredCollection) -> IndexConfig {
        let Self { storage, threads, expansion_search } = *self;
        let storage = match stored.quantization() {
            Quantization::Unspecified => storage,
            Quantization::F32 => Some(Storage::F32),
            Quantization::F16 => Some(Storage::F16),
            Quantization::I8 => Some(Storage::I8),
        };
        let suits = IndexConfig::new(stored.dimension as usize);
        IndexConfig { storage: storage.unwrap_or(suits.storage), threads, expansion_search, ..suits }
    }
}

/// All collections that this group's log ever named, dropped ones among them.
pub(super) struct Collections {
    options: IndexOptions,
    entries: RwLock<HashMap<u64, Entry>>,
}

impl Collections {
    pub(super) fn new(options: IndexOptions) -> Self {
        Self { options, entries: RwLock::default() }
    }

    pub(super) fn options(&self) -> &IndexOptions {
        &self.options
    }

    pub(super) fn stored(&self, uid: u64) -> Option<StoredCollection> {
        self.entries.read().get(&uid).map(|e| e.stored.clone())
    }

    /// `None` if it is unknown or dropped.
    pub(super) fn live(&self, uid: u64) -> Option<Arc<Collection>> {
        self.entries.read().get(&uid).and_then(|e| e.live.clone())
    }

    /// `None` if nothing was ever put there; an error if it is dropped, which a caller with an old map cannot know.
    pub(super) fn to_read(&self, uid: u64) -> Result<Option<Arc<Collection>>, StateError> {
        match self.entries.read().get(&uid) {
            Some(entry) if entry.stored.dropped => Err(StateError::Dropped),
            Some(entry) => Ok(entry.live.clone()),
            None => Ok(None),
        }
    }

    pub(super) fn all_live(&self) -> Vec<Arc<Collection>> {
        self.entries.read().values().filter_map(|e| e.live.clone()).collect()
    }

    pub(super) fn all_stored(&self) -> Vec<StoredCollection> {
        self.entries.read().values().map(|e| e.stored.clone()).collect()
    }

    /// The digest of all records, as it will be when `changed` replaces what is here.
    pub(super) fn digest(&self, changed: &HashMap<u64, StoredCollection>) -> Digest {
        let mut digest = Digest::default();
        let entries = self.entries.read();
        let unchanged = entries.values().map(|e| &e.stored).filter(|stored| !changed.contains_key(&stored.uid));
        for stored in unchanged.chain(changed.values()).filter(|stored| !stored.dropped) {
            digest += Digest::from_bytes(&stored.digest);
        }
        digest
    }

    /// The collection to put into; made if it is new, as `stored` will have it.
    pub(super) fn ensure(&self, stored: &StoredCollection) -> Result<Arc<Collection>, IndexError> {
        let StoredCollection { uid, dimension, quantization, .. } = *stored;
        if let Some(live) = self.live(uid) {
            return Ok(live);
        }
        let index = LiveIndex::new(self.options.config(stored))?;
        let attributes = AttributeIndex::default();
        let live = Arc::new(Collection::new(uid, dimension as usize, index, attributes, Covered::default()));
        self.insert(
            StoredCollection { uid, dimension, quantization, ..StoredCollection::default() },
            Some(live.clone()),
        );
        Ok(live)
    }

    /// Adds a collection as it was found on disk.
    pub(super) fn insert(&self, stored: StoredCollection, live: Option<Arc<Collection>>) {
        self.entries.write().insert(stored.uid, Entry { stored, live, cleared: false });
    }

    /// Dropped collections whose records may still be stored.
    pub(super) fn to_clear(&self) -> Vec<u64> {
        self.entries.read().values().filter(|e| e.stored.dropped && !e.cleared).map(|e| e.stored.uid).collect()
    }

    /// Nothing of a dropped collection is stored any more.
    pub(super) fn cleared(&self, uid: u64) {
        if let Some(entry) = self.entries.write().get_mut(&uid) {
            entry.cleared = entry.stored.dropped;
        }
    }

    /// Takes over new counts and digests; lets go of what is dropped.
    pub(super) fn update(&self, changed: impl IntoIterator<Item = StoredCollection>) {
        let mut entries = self.entries.write();
        for stored in changed {
            let live = entries.remove(&stored.uid).and_then(|e| e.live).filter(|_| !stored.dropped);
            entries.insert(stored.uid, Entry { stored, live, cleared: false });
        }
    }
}
