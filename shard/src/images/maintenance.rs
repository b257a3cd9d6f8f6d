//! A replica's background thread: tail into graph, checkpoints, rebuilds, audits, and the remains of dropped collections.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::collection::Collection;
use super::keys;
use super::leisure::Stretch;
use super::open::Contents;
use super::records::embeddings_from;
use super::state::Inner;
use super::{audit, checkpoint};
use crate::attributes;
use crate::group::state_machine::StateError;
use crate::metrics::{CHECKPOINT_SECONDS, REBUILDS};
use crate::store::Batch;

/// Images moved before the thread looks at the next collection.
const DRAIN: usize = 256;
/// Wait when there was nothing to do. The tail is searched exactly meanwhile, so nobody sees this.
const IDLE: Duration = Duration::from_millis(50);
/// How long graphs are audited at a stretch, for as long as there is something that was not audited since its graph has
/// changed.
const AUDIT: Duration = Duration::from_millis(20);
/// Wait after a failure, so that a full disk is not hammered.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Runs until it is dropped.
pub(super) struct Maintenance {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Maintenance {
    pub(super) fn start(state: Arc<Inner>) -> Result<Self, StateError> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name(format!("images-{}", state.group)).spawn(move || {
            let (mut wait, mut audits) = (Duration::ZERO, Instant::now());
            while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(wait) {
                // Its locks are not poisoned by a panic, and what it builds is lost with it: it may try again.
                wait = match catch_unwind(AssertUnwindSafe(|| round(&state, &mut audits))) {
                    Ok(Ok(Done::More)) => Duration::ZERO,
                    Ok(Ok(Done::Audited)) => audits.saturating_duration_since(Instant::now()).min(IDLE),
                    Ok(Ok(Done::All)) => IDLE,
                    Ok(Err(error)) => {
                        tracing::error!(group = state.group, %error, "maintenance failed; trying again");
                        AFTER_FAILURE
                    }
                    Err(_) => {
                        tracing::error!(group = state.group, "maintenance panicked; trying again");
                        AFTER_FAILURE
                    }
                };
            }
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Maintenance {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("a maintenance thread had panicked");
        }
    }
}

/// What a round leaves.
enum Done {
    /// There is more to do at once.
    More,
    /// All that is urgent is done; an audit is under way, or rests.
    Audited,
    All,
}

/// One round over all collections. `audits`: not before then.
fn round(state: &Inner, audits: &mut Instant) -> Result<Done, StateError> {
    let contents = state.contents();
    // Until then keys may still arrive out of order, which a checkpoint's watermark could not express.
    if !contents.is_settled() {
        return Ok(Done::All);
    }
    let (mut busy, mut changed) = (false, Vec::new());
    for collection in contents.collections.all_live() {
        let moved = collection.index.drain(DRAIN)?;
        busy |= moved == DRAIN;
        if collection.index.needs_rebuild() {
            rebuild(&contents, &collection)?;
            REBUILDS.inc();
        }
        let stats = collection.index.stats();
        let covered = *collection.covered.lock();
        let keep_audit = collection.audit.lock().take_worth_keeping();
        let due = keep_audit || checkpoint::is_due(covered, stats.graph, stats.watermark);
        if due && has_room(state, collection.index.memory_bytes() as u64) {
            write_checkpoint(state, &contents, &collection)?;
        }
        if audit::is_due(&collection, stats.watermark) {
            changed.push((collection, stats.watermark));
        }
    }
    for uid in contents.collections.to_clear() {
        for prefix in keys::contents(uid) {
            contents.table.remove_prefix(&prefix)?;
        }
        checkpoint::remove(&contents.checkpoints, uid)?;
        contents.collections.cleared(uid);
    }
    forget_removals(&contents)?;
    if !changed.is_empty() && *audits <= Instant::now() {
        let stretch = Stretch::begin();
        for (collection, watermark) in &changed {
            while stretch.elapsed() < AUDIT && audit::step(&contents, collection, *watermark)? {}
        }
        *audits = Instant::now() + stretch.rest(busy);
    }
    Ok(match (busy, changed.is_empty()) {
        (true, _) => Done::More,
        (false, true) => Done::All,
        (false, false) => Done::Audited,
    })
}

/// Removes what was noted during moves of slots that are over: move ids grow.
fn forget_removals(contents: &Contents) -> Result<(), StateError> {
    let slots = contents.slots();
    let first_needed = slots.current().map_or(slots.last_move_id() + 1, |m| m.move_id);
    let mut batch = Batch::default();
    for entry in contents.table.range(keys::REMOVALS.to_vec()..keys::removals(first_needed)).take(DRAIN) {
        batch.remove(entry?.0);
    }
    match batch.is_empty() {
        true => Ok(()),
        false => Ok(contents.table.apply(batch)?),
    }
}

/// Whether a checkpoint may be written. A graph takes more in memory than in a file.
fn has_room(state: &Inner, bytes: u64) -> bool {
    let room = state.room.for_file(bytes);
    let waited = state.checkpoints_wait.swap(room.is_err(), Ordering::Relaxed);
    if let (Err(why), false) = (&room, waited) {
        tracing::warn!(group = state.group, %why, "no checkpoints until there is room: a restart will take longer");
    }
    room.is_ok()
}

fn rebuild(contents: &Contents, collection: &Collection) -> Result<(), StateError> {
    tracing::info!(collection_uid = collection.uid, "building the graph again without its tombstones");
    let mut failed = None;
    let records = embeddings_from(&contents.table, collection.uid, 0).map_while(|entry| match entry {
        Ok(record) => Some(record),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    collection.index.rebuild(records)?;
    match failed {
        Some(error) => Err(error),
        None => {
            // Its checkpoint must not come back: it holds what the new graph's tombstones no longer name.
            collection.covered.lock().count = 0;
            *collection.audit.lock() = audit::Audit::default();
            Ok(())
        }
    }
}

fn write_checkpoint(state: &Inner, contents: &Contents, collection: &Collection) -> Result<(), StateError> {
    let started = std::time::Instant::now();
    let export = collection.index.export()?;
    // After the graph: a record that goes away from here on leaves a tombstone, which a restart reads for both.
    let attributes = attributes::export(&collection.attributes, export.watermark);
    let previous = *collection.covered.lock();
    let covered = checkpoint::write(
        &state.store,
        &contents.checkpoints,
        collection.uid,
        collection.dimension as u32,
        &export,
        &attributes,
        previous,
    )?;
    *collection.covered.lock() = covered;
    *state.checkpointed.lock() = Some(std::time::Instant::now());
    CHECKPOINT_SECONDS.took(started.elapsed());
    forget_tombstones(contents, collection, covered.watermark)?;
    tracing::info!(
        group = state.group,
        collection_uid = collection.uid,
        images = covered.count,
        bytes = export.bytes.len(),
        attribute_bytes = attributes.len(),
        attribute_memory = collection.attributes.read().memory_bytes(),
        took = ?started.elapsed(),
        "checkpoint written"
    );
    Ok(())
}

/// Removes the tombstones of records that the checkpointed graph does not hold.
fn forget_tombstones(contents: &Contents, collection: &Collection, watermark: u64) -> Result<(), StateError> {
    let needless = |key: u64| key <= watermark && !collection.index.is_tombstone(key);
    let mut found = Vec::new();
    for entry in contents.table.prefix(&keys::tombstones(collection.uid)) {
        found.extend(keys::trailing_key(&entry?.0).filter(|key| needless(*key)));
    }
    // Apply holds this lock from before it stores a tombstone until the index knows of it.
    let _no_apply = contents.answers.lock();
    let mut batch = Batch::default();
    for key in found.into_iter().filter(|key| needless(*key)) {
        batch.remove(keys::tombstone(collection.uid, key));
    }
    Ok(contents.table.apply(batch)?)
}
