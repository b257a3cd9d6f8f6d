//! The state machine itself: commands in, outcomes out.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::ids::GroupId;
use omma_proto::internal::v1::{StoredCollection, StoredSlotMove};
use parking_lot::{Mutex, RwLock};

use super::collection::IndexOptions;
use super::cut::Cuts;
use super::digest::Digest;
use super::digests::{self, Mark};
use super::keys;
use super::maintenance::Maintenance;
use super::open::{Contents, current_generation, remove_all, remove_generation, switch_generation};
use super::plan::{IndexChange, Planner};
use super::recent::Recent;
use super::records::Records;
use super::snapshot;
use crate::format::{open, seal};
use crate::group::state_machine::{Committed, SnapshotChunks, StateError, StateMachine};
use crate::index::{DEFAULT_EXPANSION_SEARCH, Storage};
use crate::room::Room;
use crate::store::Store;

/// Old generations that may still be there at a start. Readers kept each of them for longer than an install waits.
const LEFT_BEHIND: u64 = 16;

/// Memory for what searches read, in bytes, where nothing else is said.
const DEFAULT_RECENT: usize = 16 << 20;

/// How a replica keeps its images.
#[derive(Debug, Clone)]
pub struct ImagesConfig {
    /// Numbers in the HNSW graph. Records keep f32, and hits are ranked by those.
    pub storage: Option<Storage>,
    /// Threads that may search and build one collection's graph at once.
    pub index_threads: usize,
    /// Candidates that a search of a graph keeps: see [`crate::index::IndexConfig`].
    pub expansion_search: usize,
    /// For checkpoints.
    pub room: Room,
    /// Memory for what searches read, of all groups.
    pub recent: Recent,
}

impl Default for ImagesConfig {
    fn default() -> Self {
        let index_threads = std::thread::available_parallelism().map_or(2, usize::from) + 1;
        let (storage, expansion_search) = (None, DEFAULT_EXPANSION_SEARCH);
        let (room, recent) = (Room::unchecked(), Recent::new(DEFAULT_RECENT));
        Self { storage, index_threads, expansion_search, room, recent }
    }
}

/// One replica's images.
#[derive(Clone)]
pub struct ImageState {
    inner: Arc<Inner>,
    _maintenance: Arc<Maintenance>,
}

pub(super) struct Inner {
    pub(super) group: GroupId,
    pub(super) store: Store,
    pub(super) room: Room,
    /// Whether checkpoints wait for room.
    pub(super) checkpoints_wait: AtomicBool,
    options: IndexOptions,
    recent: Recent,
    contents: RwLock<Arc<Contents>>,
    /// When this process last wrote a checkpoint.
    pub(super) checkpointed: Mutex<Option<Instant>>,
    /// Records so far of a snapshot that is being installed.
    received: AtomicU64,
    /// Of backups under way.
    cuts: Cuts,
}

/// Tells when nobody uses a state any more.
pub struct InUse(Weak<Inner>);

impl InUse {
    /// Whether anybody does.
    pub fn still(&self) -> bool {
        self.0.strong_count() > 0
    }
}

/// Numbers of a replica's state.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StateStats {
    /// Log index of the newest entry that is applied.
    pub applied: u64,
    /// Live images, over all collections.
    pub images: u64,
    /// Of all records; empty while the state is not exact (just after a snapshot).
    pub digest: Vec<u8>,
    /// The move of slots that the group takes part in.
    pub slot_move: Option<StoredSlotMove>,
    /// Images in HNSW graphs, tombstones among them.
    pub graph: u64,
    /// Images not yet in a graph.
    pub tail: u64,
    /// Dead images in graphs.
    pub tombstones: u64,
    /// The log index that every collection's newest checkpoint covers.
    pub checkpoint: u64,
    /// Live images by collection.
    pub collections: Vec<(u64, u64)>,
    /// Images in graphs beyond the newest checkpoints.
    pub unsaved: u64,
    /// Since this process last wrote a checkpoint.
    pub checkpoint_age: Option<Duration>,
    /// Records so far of a snapshot that is being installed; 0 if none is.
    pub received: u64,
}

impl ImageState {
    /// Opens the state of `group` in `store`, or makes an empty one, and starts its maintenance thread.
    pub fn open(store: Store, group: GroupId, config: &ImagesConfig) -> Result<Self, StateError> {
        let options = IndexOptions {
            storage: config.storage,
            threads: config.index_threads,
            expansion_search: config.expansion_search,
        };
        let generation = current_generation(&store, group)?;
        // Left by an install that was cut off before its switch, and by those that did not get to removing the old.
        remove_generation(&store, group, generation + 1)?;
        for old in generation.saturating_sub(LEFT_BEHIND)..generation {
            remove_generation(&store, group, old)?;
        }
        let contents = Contents::open(&store, group, generation, options.clone(), &config.recent)?;
        let inner = Arc::new(Inner {
            group,
            store,
            room: config.room.clone(),
            checkpoints_wait: AtomicBool::new(false),
            options,
            recent: config.recent.clone(),
            contents: RwLock::new(Arc::new(contents)),
            checkpointed: Mutex::default(),
            received: AtomicU64::new(0),
            cuts: Cuts::default(),
        });
        let maintenance = Arc::new(Maintenance::start(inner.clone())?);
        Ok(Self { inner, _maintenance: maintenance })
    }

    pub(super) fn contents(&self) -> Arc<Contents> {
        self.inner.contents()
    }

    pub(super) fn cuts(&self) -> &Cuts {
        &self.inner.cuts
    }

    /// To wait until all clones, and what they are doing, are gone.
    pub fn in_use(&self) -> InUse {
        InUse(Arc::downgrade(&self.inner))
    }

    /// Removes all that is stored of `group`, durably. Nobody may use its state any more.
    pub fn remove(store: &Store, group: GroupId) -> Result<(), StateError> {
        remove_all(store, group)
    }

    /// Numbers for status and limits, all of one moment. Blocks while entries are applied.
    pub fn stats(&self) -> StateStats {
        let contents = self.contents();
        // Applied index, counts and digest belong together.
        let no_apply = contents.answers.lock();
        let received = self.inner.received.load(Ordering::Relaxed);
        let mut stats = StateStats { applied: contents.applied(), received, ..StateStats::default() };
        let mut digest = Digest::default();
        for stored in contents.collections.all_stored().into_iter().filter(|c| !c.dropped) {
            stats.images += stored.image_count;
            digest += Digest::from_bytes(&stored.digest);
            stats.collections.push((stored.uid, stored.image_count));
        }
        if contents.is_settled() {
            stats.digest = digest.to_bytes();
        }
        stats.slot_move = contents.slots().current().cloned();
        drop(no_apply);
        stats.checkpoint_age = self.inner.checkpointed.lock().map(|at| at.elapsed());
        let mut checkpoint = None;
        for collection in contents.collections.all_live() {
            let index = collection.index.stats();
            stats.graph += index.graph as u64;
            stats.tail += index.tail as u64;
            stats.tombstones += index.tombstones as u64;
            let saved = *collection.covered.lock();
            stats.unsaved += index.graph.saturating_sub(saved.count) as u64;
            let covered = keys::index_of(saved.watermark);
            checkpoint = Some(checkpoint.map_or(covered, |c: u64| c.min(covered)));
        }
        stats.checkpoint = checkpoint.unwrap_or(0);
        stats
    }

    /// The move of slots that the group takes part in, and the latest one that it took part in.
    pub fn slot_move(&self) -> (Option<StoredSlotMove>, u64) {
        let slots = self.contents().slots();
        (slots.current().cloned(), slots.last_move_id())
    }

    /// Memory of all indexes, in bytes. Takes time in proportion to them.
    pub fn index_memory_bytes(&self) -> u64 {
        self.contents().collections.all_live().iter().map(|c| c.index.memory_bytes() as u64).sum()
    }

    /// Images of a collection that wait for its graph.
    pub fn tail(&self, uid: u64) -> usize {
        self.contents().collections.live(uid).map_or(0, |c| c.index.stats().tail)
    }
}

impl Inner {
    pub(super) fn contents(&self) -> Arc<Contents> {
        self.contents.read().clone()
    }
}

/// Makes new collections and, unless the tails are to be filled as a whole later, inserts what is new.
fn insert_into_indexes(
    contents: &Contents,
    collections: &HashMap<u64, StoredCollection>,
    changes: &[IndexChange],
    settled: bool,
) -> Result<(), StateError> {
    for change in changes {
        if let IndexChange::Insert { uid, key, embedding, attributes } = change
            && let Some(stored) = collections.get(uid)
        {
            let collection = contents.collections.ensure(stored)?;
            if settled {
                collection.attributes.write().insert(*key, attributes);
                collection.index.insert(*key, embedding);
            }
        }
    }
    Ok(())
}

fn remove_from_indexes(contents: &Contents, changes: &[IndexChange]) {
    for change in changes {
        if let IndexChange::Remove { uid, key } = change
            && let Some(collection) = contents.collections.live(*uid)
        {
            // Attributes first: a filtered search that missed a record because it went away sees that it did.
            collection.attributes.write().remove(*key);
            collection.index.remove(*key);
        }
    }
}

impl StateMachine for ImageState {
    fn raft_state(&self) -> Result<Option<Bytes>, StateError> {
        let value = self.contents().table.get(keys::RAFT)?;
        value.map(|v| open("Raft's state", &v).map(Bytes::copy_from_slice)).transpose()
    }

    fn apply(&self, entries: Vec<Committed>, raft: Bytes) -> Result<Vec<Bytes>, StateError> {
        let contents = self.contents();
        let Some(last) = entries.last().map(|e| e.index) else { return Ok(Vec::new()) };
        let mut answers = contents.answers.lock();
        let slots = contents.slots();
        let view = Records { table: &contents.table, collections: &contents.collections, slots };
        let mut planner = Planner::new(&view, &mut answers);
        let mut outcomes = Vec::with_capacity(entries.len());
        let mut marks = Vec::new();
        for entry in &entries {
            outcomes.push(match &entry.command {
                Some(command) => planner.command(entry.index, command)?,
                None => Bytes::new(),
            });
            if digests::is_marked(entry.index) {
                let digest = contents.collections.digest(&planner.collections);
                marks.push(Mark { applied: entry.index, digest: digest.to_bytes() });
            }
        }
        planner.finish();
        let Planner { mut batch, index, collections, slots, slots_changed, .. } = planner;
        batch.insert(keys::RAFT, seal(&raft));
        batch.insert(keys::APPLIED, seal(&last.to_be_bytes()));
        let settled = contents.is_settled();
        let settles = !settled && last >= contents.settled_at.load(Ordering::Acquire);
        if settles {
            batch.remove(keys::SETTLED);
        }

        // New records enter the index before the table, old ones leave it after: a search that meets neither the old
        // nor the new record of an image knows that it raced with this, and looks again.
        let change = || {
            self.inner.cuts.keep_removed(&contents, &index)?;
            insert_into_indexes(&contents, &collections, &index, settled)?;
            contents.table.apply(batch)?;
            contents.applied.store(last, Ordering::Release);
            if settled {
                remove_from_indexes(&contents, &index);
            }
            if settles {
                contents.fill_tails()?;
                contents.settled_at.store(0, Ordering::Release);
            }
            contents.collections.update(collections.into_values());
            Ok(())
        };
        let removes = index.iter().any(|change| matches!(change, IndexChange::Remove { .. }));
        contents.change_slots(slots_changed.then_some(slots), || contents.change_records(removes, change))?;
        if settled {
            contents.marks.lock().keep(marks);
        }
        Ok(outcomes)
    }

    fn flush(&self) -> Result<(), StateError> {
        Ok(self.inner.store.flush()?)
    }

    fn snapshot(&self) -> Result<(Bytes, SnapshotChunks), StateError> {
        let contents = self.contents();
        let raft = self.raft_state()?.unwrap_or_default();
        Ok((raft, snapshot::read(contents)))
    }

    fn install(&self, raft: Bytes, chunks: SnapshotChunks) -> Result<(), StateError> {
        let Inner { group, store, options, recent, contents, received, .. } = &*self.inner;
        let generation = self.contents().generation + 1;
        remove_generation(store, *group, generation)?;
        received.store(0, Ordering::Relaxed);
        let written = snapshot::write(store, *group, generation, &raft, chunks, received);
        received.store(0, Ordering::Relaxed);
        written?;
        switch_generation(store, *group, generation)?;
        let installed = Arc::new(Contents::open(store, *group, generation, options.clone(), recent)?);
        let old = std::mem::replace(&mut *contents.write(), installed);
        // Readers finish with the old tables; if one takes too long, the next start removes them.
        let patience = Instant::now() + Duration::from_secs(60);
        while Arc::strong_count(&old) > 1 && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        if Arc::strong_count(&old) == 1 {
            remove_generation(store, *group, old.generation)?;
        }
        Ok(())
    }
}
