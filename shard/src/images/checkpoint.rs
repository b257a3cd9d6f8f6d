//! Checkpoints: an HNSW graph in the store, so that a restart need not build it again.
//!
//! Chunks first, then a flush, then the manifest, then a flush, then the old chunks go: whatever moment the process
//! dies at, the newest manifest names chunks that are all there. A damaged checkpoint costs a rebuild, never data.

use omma_proto::internal::v1::CheckpointManifest;

use super::keys::RecordKey;
use crate::format::{open, open_message, seal, seal_message};
use crate::group::state_machine::StateError;
use crate::index::Export;
use crate::store::{Batch, Store, Table};

/// Bytes of a graph per stored value.
const CHUNK: usize = 64 << 10;
const CHUNKS_PER_BATCH: usize = 16;

/// What a checkpoint covers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Covered {
    /// All live records with keys up to this one.
    pub(super) watermark: RecordKey,
    /// Images in its graph.
    pub(super) count: usize,
    /// Which checkpoint it is; 0 if there is none.
    pub(super) generation: u64,
}

fn manifest_key(uid: u64) -> Vec<u8> {
    [&uid.to_be_bytes()[..], b"m"].concat()
}

fn chunks_key(uid: u64, generation: u64) -> Vec<u8> {
    [&uid.to_be_bytes()[..], b"c", &generation.to_be_bytes()].concat()
}

fn chunk_key(uid: u64, generation: u64, chunk: u32) -> Vec<u8> {
    [&chunks_key(uid, generation)[..], &chunk.to_be_bytes()].concat()
}

/// Writes a checkpoint after `previous`. Records up to its watermark are durable, too, when this returns.
pub(super) fn write(
    store: &Store,
    table: &Table,
    uid: u64,
    dimension: u32,
    export: &Export,
    previous: Covered,
) -> Result<Covered, StateError> {
    let generation = previous.generation + 1;
    // Left behind by a process that died here.
    table.remove_prefix(&chunks_key(uid, generation))?;
    let mut chunks = 0;
    for group in export.bytes.chunks(CHUNK * CHUNKS_PER_BATCH) {
        let mut batch = Batch::default();
        for bytes in group.chunks(CHUNK) {
            batch.insert(chunk_key(uid, generation, chunks), seal(bytes));
            chunks += 1;
        }
        table.apply(batch)?;
    }
    store.flush()?;

    let manifest = CheckpointManifest {
        collection_uid: uid,
        generation,
        watermark: export.watermark,
        graph_count: export.count as u64,
        bytes: export.bytes.len() as u64,
        chunks,
        digest: blake3::hash(&export.bytes).as_bytes().to_vec().into(),
        dimension,
    };
    let mut batch = Batch::default();
    batch.insert(manifest_key(uid), seal_message(&manifest));
    table.apply(batch)?;
    store.flush()?;
    if previous.generation > 0 {
        table.remove_prefix(&chunks_key(uid, previous.generation))?;
    }
    Ok(Covered { watermark: export.watermark, count: export.count, generation })
}

/// The newest checkpoint of a collection and the bytes of its graph; `None` if there is none.
pub(super) fn read(table: &Table, uid: u64) -> Result<Option<(Covered, Vec<u8>)>, StateError> {
    let Some(value) = table.get(manifest_key(uid))? else { return Ok(None) };
    let manifest: CheckpointManifest = open_message("checkpoint manifest", &value)?;
    let damaged = |reason: &str| StateError::Damaged { what: "checkpoint".to_owned(), reason: reason.to_owned() };
    let mut bytes = Vec::with_capacity(usize::try_from(manifest.bytes).map_err(|_| damaged("its size is absurd"))?);
    let mut chunks = 0;
    for entry in table.prefix(&chunks_key(uid, manifest.generation)) {
        bytes.extend_from_slice(open("checkpoint chunk", &entry?.1)?);
        chunks += 1;
    }
    if chunks != manifest.chunks || bytes.len() as u64 != manifest.bytes {
        return Err(damaged("chunks are missing"));
    }
    if blake3::hash(&bytes).as_bytes()[..] != manifest.digest[..] {
        return Err(damaged("its digest is wrong"));
    }
    let covered = Covered {
        watermark: manifest.watermark,
        count: usize::try_from(manifest.graph_count).map_err(|_| damaged("its size is absurd"))?,
        generation: manifest.generation,
    };
    Ok(Some((covered, bytes)))
}

/// Removes all of a collection's checkpoints.
pub(super) fn remove(table: &Table, uid: u64) -> Result<(), StateError> {
    table.remove_prefix(&uid.to_be_bytes())?;
    Ok(())
}

/// Whether `now` differs so much from what is covered that a new checkpoint is worth its cost: it is proportional to
/// the graph, so it may only come after a proportional number of new images.
pub(super) fn is_due(covered: Covered, graph: usize, watermark: RecordKey) -> bool {
    const LEAST: usize = 2_000;
    watermark > covered.watermark && graph.saturating_sub(covered.count) >= LEAST.max(covered.count / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn export(len: usize, watermark: u64) -> Export {
        Export { bytes: (0..len).map(|i| i as u8).collect(), watermark, count: len / 100 }
    }

    #[test]
    fn the_newest_is_read_back_and_the_old_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 64 << 20, Duration::from_secs(1)).unwrap();
        let table = store.table("graph").unwrap();
        assert!(read(&table, 1).unwrap().is_none());
        let (a, b) = (export(3_000_000, 5), export(200_000, 9));
        let first = write(&store, &table, 1, 4, &a, Covered::default()).unwrap();
        assert_eq!(read(&table, 1).unwrap().unwrap(), (first, a.bytes));
        let second = write(&store, &table, 1, 4, &b, first).unwrap();
        assert_eq!(second, Covered { watermark: 9, count: 2000, generation: 2 });
        assert_eq!(read(&table, 1).unwrap().unwrap(), (second, b.bytes));
        assert_eq!(table.prefix(&chunks_key(1, 1)).count(), 0);
    }

    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 64 << 20, Duration::from_secs(1)).unwrap();
        let table = store.table("graph").unwrap();
        write(&store, &table, 1, 4, &export(200_000, 9), Covered::default()).unwrap();
        let mut batch = Batch::default();
        batch.remove(chunk_key(1, 1, 2));
        table.apply(batch).unwrap();
        assert!(matches!(read(&table, 1), Err(StateError::Damaged { .. })));
        remove(&table, 1).unwrap();
        assert!(read(&table, 1).unwrap().is_none());
    }

    #[test]
    fn cost_stays_proportional() {
        let covered = Covered { watermark: 10, count: 100_000, generation: 1 };
        assert!(!is_due(covered, 110_000, 20));
        assert!(is_due(covered, 125_000, 20));
        assert!(!is_due(Covered::default(), 1_999, 5));
    }
}
