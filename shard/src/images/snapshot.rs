//! Snapshots: a whole state for a replica that is new or too far behind.
//!
//! sled has no consistent view of a moment, so a snapshot is a little fuzzy: collections and answers are as of its log
//! index, and so are its records, but those that went away before they were read are missing. The receiver applies the
//! entries in between again, which leads to the right state (see [`super::plan`]); until then it knows that it is not
//! exact ("settled"). Records that came meanwhile are left out: an image that was replaced while the snapshot was read
//! would be in it twice, and nothing would ever remove the older one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf, Bytes, BytesMut};
use omma_common::ids::GroupId;
use omma_proto::internal::v1::snapshot_item::Item;
use omma_proto::internal::v1::{
    SnapshotEnd, SnapshotItem, SnapshotRecord, SnapshotRemoval, SnapshotStart, StoredAnswer, StoredCollection,
};
use prost::Message;

use super::digest::Digest;
use super::keys;
use super::open::{Contents, state_table};
use crate::format::{open, open_message, seal, seal_message};
use crate::group::state_machine::{SnapshotChunks, StateError};
use crate::store::{Batch, Store, Table};

const FORMAT: u32 = 2;
/// Had the answers in its first item.
const FORMAT_BEFORE: u32 = 1;
/// Items are gathered into chunks of about this size; smaller in tests, so that little data is still many chunks.
const CHUNK: usize = if cfg!(test) { 512 } else { 512 << 10 };
/// No item is larger: an embedding and its attributes fit many times.
const LARGEST_ITEM: usize = 64 << 20;
/// Three for each record.
const ENTRIES_PER_BATCH: usize = 768;

fn damaged(reason: impl Into<String>) -> StateError {
    StateError::Damaged { what: "snapshot".to_owned(), reason: reason.into() }
}

/// The state's snapshot, as chunks. Call it while nothing is applied; read it at leisure.
pub(super) fn read(contents: Arc<Contents>) -> SnapshotChunks {
    let collections = contents.collections.all_stored();
    let live: Vec<u64> = collections.iter().filter(|c| !c.dropped).map(|c| c.uid).collect();
    let answers: Vec<_> = contents.answers.lock().iter().cloned().collect();
    let applied_index = contents.applied();
    let slots = contents.slots();
    let leaving = slots.current().map(|m| m.move_id);
    let slots = Some(slots.to_stored());
    let start = SnapshotStart { format: FORMAT, applied_index, collections, slots, ..SnapshotStart::default() };
    let start = Item::Start(start);

    let records = live.into_iter().flat_map({
        let contents = contents.clone();
        move |uid| records(&contents, uid, applied_index)
    });
    let mut sent = 0;
    let answers = answers.into_iter().map(|answer| Ok(Item::Answer(answer)));
    let removals = leaving.into_iter().flat_map({
        let contents = contents.clone();
        move |move_id| removals(&contents, move_id, applied_index)
    });
    let mut items = std::iter::once(Ok(start)).chain(answers).chain(removals).chain(records);
    let mut last: Option<std::vec::IntoIter<Item>> = None;
    let next_item = move || -> Option<Result<Item, StateError>> {
        if let Some(item) = items.next() {
            sent += u64::from(matches!(item, Ok(Item::Record(_))));
            return Some(item);
        }
        last.get_or_insert_with(|| last_items(&contents, applied_index, sent).into_iter()).next().map(Ok)
    };
    Box::new(chunks(next_item))
}

/// What follows the records: how the entries that the receiver applies again were answered, and until when it does so.
fn last_items(contents: &Contents, applied_index: u64, records: u64) -> Vec<Item> {
    // What an apply that is under way has changed already counts as applied only when it ends.
    let answers = contents.answers.lock();
    // A sender that has not settled itself lacks the same records.
    let settled_at = contents.settled_at.load(Ordering::Acquire);
    let end = SnapshotEnd { records, settled_index: contents.applied().max(settled_at) };
    answers.after(applied_index).into_iter().map(Item::Answer).chain([Item::End(end)]).collect()
}

/// The live records of a collection that were there at `applied_index`. One that goes away meanwhile is left out: its
/// removal is applied again.
fn records(
    contents: &Arc<Contents>,
    uid: u64,
    applied_index: u64,
) -> impl Iterator<Item = Result<Item, StateError>> + Send + use<> {
    let table = contents.table.clone();
    contents.table.prefix(&keys::records(uid)).filter_map(move |entry| {
        let read = || -> Result<Option<Item>, StateError> {
            let (table_key, value) = entry?;
            let key = keys::trailing_key(&table_key).ok_or_else(|| damaged("a record's key is cut"))?;
            if keys::index_of(key) > applied_index {
                return Ok(None);
            }
            let Some(embedding) = table.get(keys::embedding(uid, key))? else { return Ok(None) };
            let embedding = Bytes::copy_from_slice(open("embedding", &embedding)?);
            let record = Some(open_message("record", &value)?);
            Ok(Some(Item::Record(SnapshotRecord { collection_uid: uid, key, record, embedding })))
        };
        read().transpose()
    })
}

/// What was removed from slots that are leaving. Later removals are applied again.
fn removals(
    contents: &Contents,
    move_id: u64,
    applied_index: u64,
) -> impl Iterator<Item = Result<Item, StateError>> + Send + use<> {
    let of_move = keys::removals(move_id).len();
    contents.table.prefix(&keys::removals(move_id)).filter_map(move |entry| {
        let read = || -> Result<Option<Item>, StateError> {
            let (table_key, value) = entry?;
            let cut = || damaged("a removal's key is cut");
            let key = keys::trailing_key(&table_key).ok_or_else(cut)?;
            let uid = table_key.get(of_move..).and_then(|rest| rest.first_chunk::<8>()).ok_or_else(cut)?;
            let id = String::from_utf8_lossy(open("removal", &value)?).into_owned();
            let removal = SnapshotRemoval { collection_uid: u64::from_be_bytes(*uid), key, id };
            Ok((keys::index_of(key) <= applied_index).then_some(Item::Removal(removal)))
        };
        read().transpose()
    })
}

fn chunks(
    mut next_item: impl FnMut() -> Option<Result<Item, StateError>>,
) -> impl Iterator<Item = Result<Bytes, StateError>> {
    std::iter::from_fn(move || {
        let mut chunk = BytesMut::new();
        while chunk.len() < CHUNK {
            match next_item() {
                Some(Ok(item)) => {
                    // Grows as needed: there is no other failure.
                    let _ = SnapshotItem { item: Some(item) }.encode_length_delimited(&mut chunk);
                }
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        (!chunk.is_empty()).then(|| Ok(chunk.freeze()))
    })
}

/// Fills a new generation from a snapshot; it is complete, but not flushed, when this returns. `progress` counts the
/// records.
pub(super) fn write(
    store: &Store,
    group: GroupId,
    generation: u64,
    raft: &Bytes,
    chunks: SnapshotChunks,
    progress: &AtomicU64,
) -> Result<(), StateError> {
    let table = state_table(store, group, generation)?;
    let mut receiver = Receiver::new(&table);
    let mut pending = BytesMut::new();
    for chunk in chunks {
        pending.extend_from_slice(&chunk?);
        while let Some(item) = take_item(&mut pending)? {
            receiver.item(item)?;
        }
        progress.store(receiver.received, Ordering::Relaxed);
    }
    if !pending.is_empty() {
        return Err(damaged("it ends inside an item"));
    }
    receiver.finish(raft)
}

/// The next item, if all of it is there.
fn take_item(pending: &mut BytesMut) -> Result<Option<Item>, StateError> {
    let mut peek = &pending[..];
    let Ok(len) = prost::decode_length_delimiter(&mut peek) else {
        // A varint has at most ten bytes: with more than that it is not merely cut.
        return if pending.len() > 10 { Err(damaged("an item has no length")) } else { Ok(None) };
    };
    if len > LARGEST_ITEM {
        return Err(damaged("an item is too large"));
    }
    let prefix = pending.len() - peek.len();
    if peek.len() < len {
        return Ok(None);
    }
    pending.advance(prefix);
    let item = SnapshotItem::decode(pending.split_to(len).freeze()).map_err(|e| damaged(e.to_string()))?;
    item.item.map(Some).ok_or_else(|| damaged("an item is empty"))
}

/// Turns items into table entries. Counts and digests come from the records that really arrive.
struct Receiver<'a> {
    table: &'a Table,
    batch: Batch,
    collections: Option<HashMap<u64, StoredCollection>>,
    applied_index: u64,
    received: u64,
    settled_index: Option<u64>,
    /// The move that removals belong to.
    move_id: u64,
}

impl<'a> Receiver<'a> {
    fn new(table: &'a Table) -> Self {
        let (batch, collections, settled_index) = (Batch::default(), None, None);
        Self { table, batch, collections, applied_index: 0, received: 0, settled_index, move_id: 0 }
    }

    fn item(&mut self, item: Item) -> Result<(), StateError> {
        match item {
            Item::Start(start) => self.start(start),
            Item::Answer(answer) => self.answer(&answer),
            Item::Removal(removal) => {
                let SnapshotRemoval { collection_uid, key, id } = removal;
                self.batch.insert(keys::removal(self.move_id, collection_uid, key), seal(id.as_bytes()));
                self.apply_if_full()
            }
            Item::Record(record) => self.record(record),
            Item::End(end) if end.records == self.received => {
                self.settled_index = Some(end.settled_index);
                Ok(())
            }
            Item::End(end) => Err(damaged(format!("it has {} records of {}", self.received, end.records))),
        }
    }

    fn start(&mut self, start: SnapshotStart) -> Result<(), StateError> {
        if !matches!(start.format, FORMAT_BEFORE | FORMAT) || self.collections.is_some() {
            return Err(damaged(format!("it has format {}; this version reads up to format {FORMAT}", start.format)));
        }
        self.applied_index = start.applied_index;
        self.batch.insert(keys::APPLIED, seal(&start.applied_index.to_be_bytes()));
        if let Some(slots) = &start.slots {
            self.move_id = slots.r#move.as_ref().map_or(0, |m| m.move_id);
            self.batch.insert(keys::SLOTS, seal_message(slots));
        }
        start.answers.iter().try_for_each(|answer| self.answer(answer))?;
        let emptied = |c: StoredCollection| StoredCollection { image_count: 0, digest: Bytes::new(), ..c };
        self.collections = Some(start.collections.into_iter().map(|c| (c.uid, emptied(c))).collect());
        Ok(())
    }

    fn answer(&mut self, answer: &StoredAnswer) -> Result<(), StateError> {
        self.batch.insert(keys::answer(answer.index, answer.place), seal_message(answer));
        self.apply_if_full()
    }

    fn record(&mut self, item: SnapshotRecord) -> Result<(), StateError> {
        let SnapshotRecord { collection_uid: uid, key, record, embedding } = item;
        let collections = self.collections.as_mut().ok_or_else(|| damaged("it has no start"))?;
        let collection = collections.get_mut(&uid).ok_or_else(|| damaged("a record is of no collection"))?;
        let record = record.ok_or_else(|| damaged("a record is empty"))?;
        let mut digest = Digest::from_bytes(&collection.digest);
        digest += Digest::from_bytes(&record.record_digest);
        collection.digest = digest.to_bytes().into();
        collection.image_count += 1;
        self.batch.insert(keys::id(uid, &record.id), seal(&key.to_be_bytes()));
        self.batch.insert(keys::record(uid, key), seal_message(&record));
        self.batch.insert(keys::embedding(uid, key), seal(&embedding));
        self.received += 1;
        self.apply_if_full()
    }

    fn apply_if_full(&mut self) -> Result<(), StateError> {
        if self.batch.len() >= ENTRIES_PER_BATCH {
            self.table.apply(std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }

    fn finish(mut self, raft: &Bytes) -> Result<(), StateError> {
        let settled = self.settled_index.ok_or_else(|| damaged("it has no end"))?;
        for collection in self.collections.into_iter().flat_map(HashMap::into_values) {
            self.batch.insert(keys::collection(collection.uid), seal_message(&collection));
        }
        if settled > self.applied_index {
            self.batch.insert(keys::SETTLED, seal(&settled.to_be_bytes()));
        }
        self.batch.insert(keys::RAFT, seal(raft));
        Ok(self.table.apply(self.batch)?)
    }
}
