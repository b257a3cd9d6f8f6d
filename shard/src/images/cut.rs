//! Cuts: what a collection holds at one applied index, read at leisure while more is applied. For backups.
//!
//! sled has no view of a moment, so apply hands what it removes to the cuts that still need it. A page of a cut is what
//! the table holds of it, joined with what was handed over: read in this order, nothing is missed.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use omma_common::vector;
use omma_proto::internal::v1::{CutRecord, PutRecord, StoredRecord};
use parking_lot::Mutex;
use prost::Message;

use super::keys::{self, RECORDS_PER_COMMAND, RecordKey};
use super::open::Contents;
use super::plan::IndexChange;
use super::records;
use super::state::ImageState;
use crate::group::state_machine::StateError;

/// A cut that nobody reads for so long is forgotten.
const IDLE: Duration = Duration::from_secs(120);
/// Cuts of one replica at a time.
const MOST: usize = 8;
/// What may be handed over to one cut before it is given up.
const MOST_BYTES: usize = 128 << 20;

/// A new cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCut {
    /// Names it on this replica.
    pub id: u64,
    /// It holds what was there when this entry was the newest one applied.
    pub applied: u64,
    /// Images in it.
    pub images: u64,
}

/// Some of a cut's records, in the order of their keys.
#[derive(Debug, Default)]
pub struct CutPage {
    /// Records, with their keys.
    pub records: Vec<CutRecord>,
    /// Whether these are the last.
    pub done: bool,
}

struct Cut {
    uid: u64,
    generation: u64,
    applied: u64,
    /// Removed since; `None` if that was too much.
    removed: Option<BTreeMap<RecordKey, PutRecord>>,
    bytes: usize,
    used: Instant,
}

impl Cut {
    fn holds(&self, uid: u64, key: RecordKey) -> bool {
        self.uid == uid && keys::index_of(key) <= self.applied
    }

    fn keep(&mut self, key: RecordKey, record: PutRecord) {
        self.bytes += record.encoded_len();
        match &mut self.removed {
            Some(removed) if self.bytes <= MOST_BYTES => drop(removed.insert(key, record)),
            removed => *removed = None,
        }
    }
}

/// A replica's cuts, by id.
#[derive(Default)]
pub(super) struct Cuts(Mutex<HashMap<u64, Cut>>);

impl Cuts {
    /// Hands over what `changes` are about to remove. To be called before they reach the table.
    pub(super) fn keep_removed(&self, contents: &Contents, changes: &[IndexChange]) -> Result<(), StateError> {
        let mut cuts = self.0.lock();
        if cuts.is_empty() {
            return Ok(());
        }
        cuts.retain(|_, cut| cut.used.elapsed() < IDLE && cut.generation == contents.generation);
        for change in changes {
            let IndexChange::Remove { uid, key } = change else { continue };
            if cuts.values().any(|cut| cut.holds(*uid, *key))
                && let Some(record) = record_of(contents, *uid, *key)?
            {
                let holding = cuts.values_mut().filter(|cut| cut.holds(*uid, *key));
                holding.for_each(|cut| cut.keep(*key, record.clone()));
            }
        }
        Ok(())
    }
}

fn record_of(contents: &Contents, uid: u64, key: RecordKey) -> Result<Option<PutRecord>, StateError> {
    let Some(stored) = records::record(&contents.table, uid, key)? else { return Ok(None) };
    whole(contents, uid, key, stored)
}

/// With its embedding; `None` if that is gone: then it was handed over before.
fn whole(contents: &Contents, uid: u64, key: RecordKey, stored: StoredRecord) -> Result<Option<PutRecord>, StateError> {
    let Some(embedding) = records::embedding(&contents.table, uid, key)? else { return Ok(None) };
    let StoredRecord { id, attributes, content_digest, .. } = stored;
    Ok(Some(PutRecord { id, embedding: vector::to_bytes(&embedding), attributes, content_digest }))
}

impl ImageState {
    /// Fixes what a collection holds now.
    pub fn cut(&self, uid: u64) -> Result<NewCut, StateError> {
        let contents = self.contents();
        // Index, count and what is handed over belong together.
        let _no_apply = contents.answers.lock();
        if !contents.is_settled() {
            return Err(StateError::Settling);
        }
        contents.collections.to_read(uid)?;
        let images = contents.collections.stored(uid).map_or(0, |stored| stored.image_count);
        let (id, applied, generation) = (rand::random_range(1..u64::MAX), contents.applied(), contents.generation);
        let mut cuts = self.cuts().0.lock();
        cuts.retain(|_, cut| cut.used.elapsed() < IDLE);
        if cuts.len() >= MOST {
            return Err(StateError::TooManyCuts(MOST));
        }
        let removed = Some(BTreeMap::new());
        cuts.insert(id, Cut { uid, generation, applied, removed, bytes: 0, used: Instant::now() });
        Ok(NewCut { id, applied, images })
    }

    /// Records of a cut with keys after `after`, about `budget` bytes of them but at least one, if there is one. A page may
    /// be read again, but none before it.
    pub fn read_cut(&self, id: u64, uid: u64, after: RecordKey, budget: usize) -> Result<CutPage, StateError> {
        let contents = self.contents();
        let applied = self.with_cut(&contents, id, uid, |cut, _| cut.applied)?;
        contents.collections.to_read(uid)?;
        let (mut found, last) =
            in_table(&contents, uid, after, keys::record_key(applied, RECORDS_PER_COMMAND - 1), budget)?;
        // After the table: whatever was missed there has been handed over by now.
        self.with_cut(&contents, id, uid, |cut, removed| {
            removed.retain(|key, _| *key > after);
            found.extend(removed.range(..=last).map(|(key, record)| (*key, record.clone())));
            cut.bytes = removed.values().map(Message::encoded_len).sum();
        })?;
        let mut page = CutPage { records: Vec::new(), done: last == RecordKey::MAX };
        let mut bytes = 0;
        for (key, record) in found {
            bytes += record.encoded_len();
            if bytes > budget && !page.records.is_empty() {
                page.done = false;
                break;
            }
            page.records.push(CutRecord { key, record: Some(record) });
        }
        Ok(page)
    }

    fn with_cut<T>(
        &self,
        contents: &Arc<Contents>,
        id: u64,
        uid: u64,
        work: impl FnOnce(&mut Cut, &mut BTreeMap<RecordKey, PutRecord>) -> T,
    ) -> Result<T, StateError> {
        let mut cuts = self.cuts().0.lock();
        let cut = cuts.get_mut(&id).filter(|cut| cut.uid == uid && cut.generation == contents.generation);
        let cut = cut.ok_or(StateError::CutGone)?;
        cut.used = Instant::now();
        let mut removed = cut.removed.take().ok_or(StateError::CutGone)?;
        let done = work(cut, &mut removed);
        cut.removed = Some(removed);
        Ok(done)
    }
}

type Found = BTreeMap<RecordKey, PutRecord>;

/// What the table holds of the keys after `after` up to `end`, up to the budget; and up to which key that is.
fn in_table(
    contents: &Contents,
    uid: u64,
    after: RecordKey,
    end: RecordKey,
    budget: usize,
) -> Result<(Found, RecordKey), StateError> {
    let (mut found, mut bytes) = (Found::new(), 0);
    for entry in records::records_from(&contents.table, uid, after.saturating_add(1)) {
        let (key, stored) = entry?;
        if key > end {
            break;
        }
        if let Some(record) = whole(contents, uid, key, stored)? {
            bytes += record.encoded_len();
            found.insert(key, record);
        }
        if bytes >= budget {
            return Ok((found, key));
        }
    }
    Ok((found, RecordKey::MAX))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use omma_proto::internal::v1::image_command::Command;
    use omma_proto::internal::v1::{DeleteRecords, PutRecords};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::super::tests::{DIMENSION, UID, apply, open, seed, unit};
    use super::*;

    fn put(rng: &mut StdRng, n: u64) -> Command {
        let embedding = vector::to_bytes(&unit(rng));
        let record = PutRecord { id: format!("i{n}"), embedding, ..PutRecord::default() };
        Command::Put(PutRecords { dimension: DIMENSION as u32, records: vec![record], ..PutRecords::default() })
    }

    fn read_all(state: &ImageState, cut: &NewCut, budget: usize) -> Result<Vec<PutRecord>, StateError> {
        let (mut all, mut after) = (Vec::new(), 0);
        loop {
            let page = state.read_cut(cut.id, UID, after, budget)?;
            after = page.records.last().map_or(after, |r| r.key);
            all.extend(page.records.into_iter().filter_map(|r| r.record));
            if page.done {
                return Ok(all);
            }
        }
    }

    fn sorted(mut records: Vec<PutRecord>) -> Vec<PutRecord> {
        records.sort_by(|a, b| a.id.cmp(&b.id));
        records
    }

    #[test]
    fn a_cut_is_what_was_there_while_everything_changes() {
        let (dir, mut rng) = (tempfile::tempdir().unwrap(), StdRng::seed_from_u64(seed()));
        let state = open(&dir);
        (1..400).for_each(|i| apply_one(&state, i, put(&mut rng, i % 300)));
        let before = sorted(read_all(&state, &state.cut(UID).unwrap(), 1 << 20).unwrap());
        let cut = state.cut(UID).unwrap();
        assert_eq!((cut.applied, cut.images, before.len()), (399, 300, 300));
        let stop = AtomicBool::new(false);
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for i in 400.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let n = rng.random_range(0..350);
                    match rng.random_bool(0.5) {
                        true => apply_one(&state, i, put(&mut rng, n)),
                        false => {
                            let ids = vec![format!("i{n}")];
                            apply_one(&state, i, Command::Delete(DeleteRecords { ids }));
                        }
                    }
                }
            });
            for _ in 0..20 {
                // Small pages, so that most changes fall between them.
                let again = state.cut(UID).unwrap();
                let all = read_all(&state, &again, 400).unwrap();
                assert_eq!(all.len() as u64, again.images, "at {}", again.applied);
                state.cuts().0.lock().remove(&again.id);
            }
            let first = sorted(read_all(&state, &cut, 400).unwrap());
            stop.store(true, Ordering::Relaxed);
            assert!(first == before, "the cut has changed");
        });
    }

    fn apply_one(state: &ImageState, index: u64, command: Command) {
        apply(state, index, command);
    }

    #[test]
    fn cuts_are_few_and_end() {
        let (dir, mut rng) = (tempfile::tempdir().unwrap(), StdRng::seed_from_u64(seed()));
        let state = open(&dir);
        apply(&state, 1, put(&mut rng, 1));
        let cuts: Vec<_> = (0..MOST).map(|_| state.cut(UID).unwrap()).collect();
        assert!(matches!(state.cut(UID), Err(StateError::TooManyCuts(MOST))));
        assert!(matches!(state.read_cut(cuts[0].id, UID + 1, 0, 1), Err(StateError::CutGone)));
        state.cuts().0.lock().get_mut(&cuts[0].id).unwrap().bytes = MOST_BYTES;
        apply(&state, 2, Command::Delete(DeleteRecords { ids: vec!["i1".into()] }));
        assert!(matches!(read_all(&state, &cuts[0], 10), Err(StateError::CutGone)), "too much was handed over");
        assert_eq!(read_all(&state, &cuts[1], 10).unwrap().len(), 1);
        let long_ago = Instant::now().checked_sub(IDLE).unwrap();
        state.cuts().0.lock().values_mut().for_each(|cut| cut.used = long_ago);
        assert_eq!(state.cut(UID).unwrap().images, 0);
        apply(&state, 3, Command::Drop(omma_proto::internal::v1::DropRecords {}));
        assert!(matches!(state.cut(UID), Err(StateError::Dropped)));
    }
}
