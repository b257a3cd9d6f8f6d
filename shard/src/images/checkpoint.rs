//! Checkpoints: an HNSW graph and the attribute index in the store, so that a restart need not build them again.
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

pub(super) fn manifest_key(uid: u64) -> Vec<u8> {
    [&uid.to_be_bytes()[..], b"m"].concat()
}

/// What the chunks hold.
#[derive(Clone, Copy)]
enum Part {
    Graph,
    Attributes,
}

fn chunks_key(uid: u64, part: Part, generation: u64) -> Vec<u8> {
    let letter = match part {
        Part::Graph => b"c",
        Part::Attributes => b"f",
    };
    [&uid.to_be_bytes()[..], letter, &generation.to_be_bytes()].concat()
}

fn chunk_key(uid: u64, part: Part, generation: u64, chunk: u32) -> Vec<u8> {
    [&chunks_key(uid, part, generation)[..], &chunk.to_be_bytes()].concat()
}

/// Writes one part; returns how many chunks it has.
fn write_part(table: &Table, uid: u64, part: Part, generation: u64, bytes: &[u8]) -> Result<u32, StateError> {
    // Left behind by a process that died here.
    table.remove_prefix(&chunks_key(uid, part, generation))?;
    let mut chunks = 0;
    for group in bytes.chunks(CHUNK * CHUNKS_PER_BATCH) {
        let mut batch = Batch::default();
        for bytes in group.chunks(CHUNK) {
            batch.insert(chunk_key(uid, part, generation, chunks), seal(bytes));
            chunks += 1;
        }
        table.apply(batch)?;
    }
    Ok(chunks)
}

/// Writes a checkpoint after `previous`. Records up to its watermark are durable, too, when this returns.
pub(super) fn write(
    store: &Store,
    table: &Table,
    uid: u64,
    dimension: u32,
    export: &Export,
    attributes: &[u8],
    previous: Covered,
) -> Result<Covered, StateError> {
    let generation = previous.generation + 1;
    let chunks = write_part(table, uid, Part::Graph, generation, &export.bytes)?;
    let attribute_chunks = write_part(table, uid, Part::Attributes, generation, attributes)?;
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
        attribute_bytes: attributes.len() as u64,
        attribute_chunks,
        attribute_digest: blake3::hash(attributes).as_bytes().to_vec().into(),
    };
    let mut batch = Batch::default();
    batch.insert(manifest_key(uid), seal_message(&manifest));
    table.apply(batch)?;
    store.flush()?;
    if previous.generation > 0 {
        for part in [Part::Graph, Part::Attributes] {
            table.remove_prefix(&chunks_key(uid, part, previous.generation))?;
        }
    }
    Ok(Covered { watermark: export.watermark, count: export.count, generation })
}

/// The newest checkpoint of a collection and the bytes of its graph; `None` if there is none.
pub(super) fn read(table: &Table, uid: u64) -> Result<Option<(Covered, Vec<u8>)>, StateError> {
    let Some(manifest) = manifest(table, uid)? else { return Ok(None) };
    let CheckpointManifest { generation, bytes, chunks, ref digest, .. } = manifest;
    let bytes = read_part(&chunks_key(uid, Part::Graph, generation), table, bytes, chunks, digest)?;
    let covered = Covered {
        watermark: manifest.watermark,
        count: usize::try_from(manifest.graph_count).map_err(|_| damaged("its size is absurd"))?,
        generation: manifest.generation,
    };
    Ok(Some((covered, bytes)))
}

/// The attribute index of that checkpoint; `None` if it was written without one.
pub(super) fn read_attributes(table: &Table, uid: u64) -> Result<Option<Vec<u8>>, StateError> {
    let Some(manifest) = manifest(table, uid)?.filter(|m| m.attribute_chunks > 0) else { return Ok(None) };
    let CheckpointManifest { generation, attribute_bytes: bytes, attribute_chunks: chunks, .. } = manifest;
    let key = chunks_key(uid, Part::Attributes, generation);
    read_part(&key, table, bytes, chunks, &manifest.attribute_digest).map(Some)
}

fn manifest(table: &Table, uid: u64) -> Result<Option<CheckpointManifest>, StateError> {
    table.get(manifest_key(uid))?.map(|value| open_message("checkpoint manifest", &value)).transpose()
}

fn damaged(reason: &str) -> StateError {
    StateError::Damaged { what: "checkpoint".to_owned(), reason: reason.to_owned() }
}

fn read_part(prefix: &[u8], table: &Table, len: u64, chunks: u32, digest: &[u8]) -> Result<Vec<u8>, StateError> {
    // Room for what the manifest says only as far as there are chunks for it: a damaged one may say anything.
    let mut bytes = Vec::new();
    let mut found = 0;
    for entry in table.prefix(prefix) {
        bytes.extend_from_slice(open("checkpoint chunk", &entry?.1)?);
        found += 1;
    }
    if found != chunks || bytes.len() as u64 != len {
        return Err(damaged("chunks are missing"));
    }
    if blake3::hash(&bytes).as_bytes()[..] != digest[..] {
        return Err(damaged("its digest is wrong"));
    }
    Ok(bytes)
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
        let first = write(&store, &table, 1, 4, &a, b"attributes", Covered::default()).unwrap();
        assert_eq!(read_attributes(&table, 1).unwrap().unwrap(), b"attributes");
        assert_eq!(read(&table, 1).unwrap().unwrap(), (first, a.bytes));
        let second = write(&store, &table, 1, 4, &b, &[], first).unwrap();
        assert_eq!(read_attributes(&table, 1).unwrap(), None);
        assert_eq!(second, Covered { watermark: 9, count: 2000, generation: 2 });
        assert_eq!(read(&table, 1).unwrap().unwrap(), (second, b.bytes));
        for part in [Part::Graph, Part::Attributes] {
            assert_eq!(table.prefix(&chunks_key(1, part, 1)).count(), 0);
        }
    }

    #[test]
    fn damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), 64 << 20, Duration::from_secs(1)).unwrap();
        let table = store.table("graph").unwrap();
        write(&store, &table, 1, 4, &export(200_000, 9), &[7; 100_000], Covered::default()).unwrap();
        let cut = |part| {
            let mut batch = Batch::default();
            batch.remove(chunk_key(1, part, 1, 1));
            table.apply(batch).unwrap();
        };
        cut(Part::Attributes);
        assert!(matches!(read_attributes(&table, 1), Err(StateError::Damaged { .. })));
        assert!(read(&table, 1).unwrap().is_some());
        cut(Part::Graph);
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
