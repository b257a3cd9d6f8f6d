//! What searches have read lately: the id and the embedding of a record, decoded, in bounded memory.
//!
//! A search ranks its candidates by their stored embeddings. In the store each takes two look-ups of some microseconds,
//! most of them waits for memory in the tree of keys: more than a graph's search costs in all.
//!
//! A record never changes under its key, so what is here is right for as long as the record lives. Whether it does is for
//! the reader to know: see [`super::ranking`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::keys::RecordKey;
use super::records::{embedding, record};
use crate::group::state_machine::StateError;
use crate::store::Table;

/// Bytes that an entry takes beside its contents: its key and place, an `Arc`, three allocations.
const OVERHEAD: usize = 160;
/// What an entry is taken to weigh when the number of places is chosen, in bytes.
const USUAL: usize = 1024;

/// What a search needs of a record.
#[derive(Debug, PartialEq)]
pub(super) struct Readable {
    pub(super) id: String,
    /// Unit length.
    pub(super) embedding: Vec<f32>,
}

type Name = (u64, u64, RecordKey);

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Name, Arc<Readable>> for Bytes {
    fn weight(&self, _: &Name, read: &Arc<Readable>) -> u64 {
        (OVERHEAD + read.id.capacity() + size_of_val(read.embedding.as_slice())) as u64
    }
}

/// The memory that all states of a process share for it. Clones are the same.
#[derive(Debug, Clone)]
pub struct Recent(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    read: Cache<Name, Arc<Readable>, Bytes>,
    owners: AtomicU64,
}

impl Recent {
    /// Room for about so many bytes; which entries stay is the crate's to say (S3-FIFO, Yang et al., 2023).
    pub fn new(bytes: usize) -> Self {
        let read = Cache::with_weighter(bytes / USUAL, bytes as u64, Bytes);
        Self(Arc::new(Inner { read, owners: AtomicU64::new(0) }))
    }

    /// For the records of `table`, apart from all others.
    pub(super) fn of(&self, table: &Table) -> Reads {
        Reads { recent: self.clone(), owner: self.0.owners.fetch_add(1, Ordering::Relaxed), table: table.clone() }
    }
}

/// Reads of one table's records.
pub(super) struct Reads {
    recent: Recent,
    owner: u64,
    table: Table,
}

impl Reads {
    /// What there is, or was lately, under a key.
    pub(super) fn get(&self, uid: u64, key: RecordKey) -> Result<Option<Arc<Readable>>, StateError> {
        let name = (self.owner, uid, key);
        if let Some(read) = self.recent.0.read.get(&name) {
            return Ok(Some(read));
        }
        let Some(embedding) = embedding(&self.table, uid, key)? else { return Ok(None) };
        let Some(record) = record(&self.table, uid, key)? else { return Ok(None) };
        let read = Arc::new(Readable { id: record.id, embedding });
        self.recent.0.read.insert(name, read.clone());
        Ok(Some(read))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use omma_common::vector::to_bytes;
    use omma_proto::internal::v1::StoredRecord;

    use super::super::keys;
    use super::*;
    use crate::format::{seal, seal_message};
    use crate::store::{Batch, Store};

    fn stored(table: &Table, uid: u64, key: RecordKey, values: &[f32]) {
        let mut batch = Batch::default();
        let record = StoredRecord { id: format!("{uid}/{key}"), ..StoredRecord::default() };
        batch.insert(keys::record(uid, key), seal_message(&record));
        batch.insert(keys::embedding(uid, key), seal(&to_bytes(values)));
        table.apply(batch).unwrap();
    }

    #[test]
    fn what_was_read_is_kept_apart_by_table_collection_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 20, Duration::from_secs(1)).unwrap();
        let recent = Recent::new(1 << 20);
        let (one, two) = (store.table("one").unwrap(), store.table("two").unwrap());
        stored(&one, 1, 5, &[1.0]);
        stored(&one, 2, 5, &[2.0]);
        stored(&two, 1, 5, &[3.0]);
        let (in_one, in_two) = (recent.of(&one), recent.of(&two));
        let value = |reads: &Reads, uid, key| reads.get(uid, key).unwrap().map(|read| read.embedding[0]);
        for _ in 0..2 {
            assert_eq!(value(&in_one, 1, 5), Some(1.0));
            assert_eq!(value(&in_one, 2, 5), Some(2.0));
            assert_eq!(value(&in_two, 1, 5), Some(3.0));
            assert_eq!(value(&in_two, 2, 5), None);
        }
        one.remove_prefix(&keys::embedding(1, 5)).unwrap();
        assert_eq!(value(&in_one, 1, 5), Some(1.0), "read without the store");
    }

    #[test]
    fn memory_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 1 << 20, Duration::from_secs(1)).unwrap();
        let table = store.table("one").unwrap();
        let recent = Recent::new(64 << 10);
        let reads = recent.of(&table);
        for key in 0..200 {
            stored(&table, 1, key, &[0.5; 256]);
            assert_eq!(reads.get(1, key).unwrap().unwrap().id, format!("1/{key}"));
        }
        assert!(recent.0.read.weight() <= 64 << 10);
        assert!((30..=60).contains(&recent.0.read.len()), "{} of 1.2 KB in 64", recent.0.read.len());
    }
}
