//! Snapshots as they come from peers, and the records of the store.

use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use omma_proto::internal::v1::{CheckpointManifest, StoredAnswer, StoredCollection, StoredRecord};
use prost::Message;

use super::digest::Digest;
use super::records::{embeddings_from, records_from};
use super::snapshot;
use crate::format::{open_embedding, open_message, open_u64, seal};
use crate::store::Store;

const GROUP: u32 = 1;
/// As a peer may cut them.
const CHUNK: usize = 100;

/// A snapshot is taken or refused; what is taken can be read.
///
/// # Panics
/// If it cannot, or the store fails.
pub fn snapshot(store: &Store, bytes: &[u8]) {
    let chunks: Vec<_> = bytes.chunks(CHUNK).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    let taken = snapshot::write(store, GROUP, 0, &Bytes::new(), Box::new(chunks.into_iter()), &AtomicU64::new(0));
    let table = super::open::state_table(store, GROUP, 0).unwrap_or_else(|e| panic!("{e}"));
    if taken.is_ok() {
        for uid in 0..4 {
            records_from(&table, uid, 0).for_each(|record| drop(record.unwrap_or_else(|e| panic!("{e}"))));
            embeddings_from(&table, uid, 0).for_each(drop);
        }
    }
    table.remove_prefix(&[]).unwrap_or_else(|e| panic!("{e}"));
}

/// The first byte says which record the rest is; it is read as it is, and with a right head and checksum around it.
pub fn stored(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    for value in [bytes.to_owned(), seal(bytes)] {
        match kind % 6 {
            0 => drop(message::<StoredRecord>(&value).map(|m| Digest::from_bytes(&m.record_digest))),
            1 => drop(message::<StoredCollection>(&value).map(|m| Digest::from_bytes(&m.digest))),
            2 => drop(message::<StoredAnswer>(&value)),
            3 => drop(open_embedding(&value)),
            4 => drop(open_u64("number", &value)),
            _ => drop(message::<CheckpointManifest>(&value)),
        }
    }
}

fn message<M: Message + Default>(value: &[u8]) -> Option<M> {
    open_message("record", value).ok()
}
