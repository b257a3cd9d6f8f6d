//! Checkpoints: an HNSW graph and the attribute index on disk, so that a restart need not build them again.
//!
//! Each is a store of its own, written once: a damaged block in it cannot close the store of the records, and what it
//! took is given back whole when the next one has replaced it. Chunks first, then a flush, then the manifest, then a
//! flush, then the one before it goes: whatever moment the process dies at, the newest that has a manifest is whole. A
//! damaged one costs a rebuild, never data.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use omma_proto::internal::v1::CheckpointManifest;

use super::keys::RecordKey;
use crate::format::{open, open_message, seal, seal_message};
use crate::group::state_machine::StateError;
use crate::index::Export;
use crate::store::{Batch, Store, StoreError, Table};

/// Bytes of a graph per stored value.
const CHUNK: usize = 64 << 10;
const CHUNKS_PER_BATCH: usize = 16;
/// Every value is written and read once.
const CACHE_BYTES: usize = 8 << 20;
/// It is flushed when it should be.
const NEVER: Duration = Duration::from_secs(1 << 30);
const TABLE: &str = "checkpoint";
const MANIFEST: &[u8] = b"m";

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

/// What the chunks hold.
#[derive(Clone, Copy)]
enum Part {
    Graph,
    Attributes,
}

impl Part {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Graph => b"c",
            Self::Attributes => b"f",
        }
    }

    fn key(self, chunk: u32) -> Vec<u8> {
        [self.prefix(), &chunk.to_be_bytes()].concat()
    }
}

fn path(folder: &Path, uid: u64, generation: u64) -> PathBuf {
    folder.join(format!("{uid:016x}.{generation}"))
}

/// The generations that there are of a collection's checkpoints, ascending.
fn generations(folder: &Path, uid: u64) -> Result<Vec<u64>, StateError> {
    let prefix = format!("{uid:016x}.");
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(at(folder)(e)),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let names = names.collect::<std::io::Result<Vec<_>>>().map_err(at(folder))?;
    let mut found: Vec<u64> = names.iter().filter_map(|n| n.strip_prefix(&prefix)?.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { path, source }
}

fn damaged(path: &Path, reason: impl ToString) -> StateError {
    StateError::Damaged { what: path.display().to_string(), reason: reason.to_string() }
}

/// Writes a checkpoint after `previous`. Records up to its watermark are durable, too, when this returns.
pub(super) fn write(
    records: &Store,
    folder: &Path,
    uid: u64,
    dimension: u32,
    export: &Export,
    attributes: &[u8],
    previous: Covered,
) -> Result<Covered, StateError> {
    // A graph must not name records that a crash takes back.
    records.flush()?;
    let generation = previous.generation + 1;
    let manifest = CheckpointManifest {
        collection_uid: uid,
        generation,
        watermark: export.watermark,
        graph_count: export.count as u64,
        bytes: export.bytes.len() as u64,
        chunks: export.bytes.chunks(CHUNK).len() as u32,
        digest: blake3::hash(&export.bytes).as_bytes().to_vec().into(),
        dimension,
        attribute_bytes: attributes.len() as u64,
        attribute_chunks: attributes.chunks(CHUNK).len() as u32,
        attribute_digest: blake3::hash(attributes).as_bytes().to_vec().into(),
    };
    let path = path(folder, uid, generation);
    // Left behind by a process that died here.
    remove_folder(&path)?;
    fs::create_dir_all(folder).map_err(at(folder))?;
    if let Err(error) = write_store(&path, &manifest, &export.bytes, attributes) {
        // Half a checkpoint is good for nothing, and there may be no room to spare.
        drop(remove_folder(&path));
        return Err(error.into());
    }
    fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(at(folder))?;
    for old in generations(folder, uid)?.into_iter().filter(|g| *g < generation) {
        remove_folder(&self::path(folder, uid, old))?;
    }
    Ok(Covered { watermark: export.watermark, count: export.count, generation })
}

fn write_store(path: &Path, manifest: &CheckpointManifest, graph: &[u8], attributes: &[u8]) -> Result<(), StoreError> {
    let store = Store::open(path, CACHE_BYTES, NEVER)?;
    let table = store.table(TABLE)?;
    for (part, bytes) in [(Part::Graph, graph), (Part::Attributes, attributes)] {
        let mut chunk = 0;
        for group in bytes.chunks(CHUNK * CHUNKS_PER_BATCH) {
            let mut batch = Batch::default();
            for bytes in group.chunks(CHUNK) {
                batch.insert(part.key(chunk), seal(bytes));
                chunk += 1;
            }
            table.apply(batch)?;
        }
    }
    store.flush()?;
    let mut batch = Batch::default();
    batch.insert(MANIFEST, seal_message(manifest));
    table.apply(batch)?;
    store.flush()
}

/// A checkpoint as it was found.
pub(super) struct Found {
    pub(super) covered: Covered,
    /// The graph's bytes.
    pub(super) graph: Vec<u8>,
    path: PathBuf,
    manifest: CheckpointManifest,
    table: Table,
}

/// The newest checkpoint of a collection; `None` if there is none.
pub(super) fn read(folder: &Path, uid: u64) -> Result<Option<Found>, StateError> {
    for generation in generations(folder, uid)?.into_iter().rev() {
        let path = path(folder, uid, generation);
        let store = Store::open(&path, CACHE_BYTES, NEVER).map_err(|e| damaged(&path, e))?;
        let table = store.table(TABLE).map_err(|e| damaged(&path, e))?;
        // Without a manifest it was never finished: the one before it is still there.
        let Some(sealed) = table.get(MANIFEST).map_err(|e| damaged(&path, e))? else { continue };
        let manifest: CheckpointManifest = open_message(&format!("manifest of {}", path.display()), &sealed)?;
        let covered = Covered {
            watermark: manifest.watermark,
            count: usize::try_from(manifest.graph_count).map_err(|_| damaged(&path, "its size is absurd"))?,
            generation,
        };
        let CheckpointManifest { bytes, chunks, ref digest, .. } = manifest;
        let graph = read_part(&path, &table, Part::Graph, bytes, chunks, digest)?;
        return Ok(Some(Found { covered, graph, path, manifest, table }));
    }
    Ok(None)
}

impl Found {
    /// The attribute index of that checkpoint.
    pub(super) fn attributes(&self) -> Result<Vec<u8>, StateError> {
        let CheckpointManifest { attribute_bytes, attribute_chunks, ref attribute_digest, .. } = self.manifest;
        read_part(&self.path, &self.table, Part::Attributes, attribute_bytes, attribute_chunks, attribute_digest)
    }
}

fn read_part(
    path: &Path,
    table: &Table,
    part: Part,
    len: u64,
    chunks: u32,
    digest: &[u8],
) -> Result<Vec<u8>, StateError> {
    // Grown by the chunks that are there: a damaged manifest may say any length.
    let mut bytes = Vec::new();
    let mut found = 0;
    for entry in table.prefix(part.prefix()) {
        let (_, sealed) = entry.map_err(|e| damaged(path, e))?;
        bytes.extend_from_slice(open("checkpoint chunk", &sealed)?);
        found += 1;
    }
    if found != chunks || bytes.len() as u64 != len {
        return Err(damaged(path, "chunks are missing"));
    }
    if blake3::hash(&bytes).as_bytes()[..] != digest[..] {
        return Err(damaged(path, "its digest is wrong"));
    }
    Ok(bytes)
}

fn remove_folder(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(at(path)(e)),
        _ => Ok(()),
    }
}

/// Removes a collection's checkpoints.
pub(super) fn remove(folder: &Path, uid: u64) -> Result<(), StateError> {
    generations(folder, uid)?.into_iter().try_for_each(|generation| remove_folder(&path(folder, uid, generation)))
}

/// Removes all checkpoints of a folder.
pub(super) fn remove_all(folder: &Path) -> Result<(), StateError> {
    remove_folder(folder)
}

/// Whether `now` differs so much from what is covered that a new checkpoint is worth its cost: it is proportional to
/// the graph, so it may only come after a proportional number of new images.
pub(super) fn is_due(covered: Covered, graph: usize, watermark: RecordKey) -> bool {
    const LEAST: usize = 2_000;
    watermark > covered.watermark && graph.saturating_sub(covered.count) >= LEAST.max(covered.count / 4)
}

/// Spoils the value at `key` of a collection's newest checkpoint: `c` or `f` and the chunk's number, or `m`.
#[cfg(test)]
pub(super) fn spoil(folder: &Path, uid: u64, key: &[u8]) {
    let newest = *generations(folder, uid).unwrap().last().unwrap();
    let store = Store::open(&path(folder, uid, newest), CACHE_BYTES, NEVER).unwrap();
    let table = store.table(TABLE).unwrap();
    let mut value = table.get(key).unwrap().unwrap().to_vec();
    *value.last_mut().unwrap() ^= 1;
    let mut batch = Batch::default();
    batch.insert(key, value);
    table.apply(batch).unwrap();
    store.flush().unwrap();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(len: usize, watermark: u64) -> Export {
        Export { bytes: (0..len).map(|i| (i * i / 7) as u8).collect(), watermark, count: len / 100 }
    }

    fn store(dir: &tempfile::TempDir) -> (Store, PathBuf) {
        let store = Store::open(dir.path(), 64 << 20, Duration::from_secs(1)).unwrap();
        (store, dir.path().join("checkpoints"))
    }

    fn whole(folder: &Path) -> Option<(Covered, Vec<u8>, Vec<u8>)> {
        let found = read(folder, 1).unwrap()?;
        Some((found.covered, found.graph.clone(), found.attributes().unwrap()))
    }

    #[test]
    fn the_newest_is_read_back_and_the_old_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (store, folder) = store(&dir);
        assert!(whole(&folder).is_none());
        let (a, b) = (export(3_000_000, 5), export(200_000, 9));
        let first = write(&store, &folder, 1, 4, &a, b"attributes", Covered::default()).unwrap();
        assert_eq!(whole(&folder).unwrap(), (first, a.bytes, b"attributes".to_vec()));
        let second = write(&store, &folder, 1, 4, &b, &[], first).unwrap();
        assert_eq!(second, Covered { watermark: 9, count: 2000, generation: 2 });
        assert_eq!(whole(&folder).unwrap(), (second, b.bytes.clone(), Vec::new()));
        assert_eq!(generations(&folder, 1).unwrap(), [2]);
        remove(&folder, 1).unwrap();
        remove(&folder, 1).unwrap();
        assert!(whole(&folder).is_none());
    }

    #[test]
    fn one_that_was_never_finished_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (store, folder) = store(&dir);
        let a = export(200_000, 5);
        let first = write(&store, &folder, 1, 4, &a, &[], Covered::default()).unwrap();
        let begun = Store::open(&path(&folder, 1, 2), CACHE_BYTES, NEVER).unwrap();
        begun.table(TABLE).unwrap();
        begun.flush().unwrap();
        drop(begun);
        assert_eq!(whole(&folder).unwrap(), (first, a.bytes.clone(), Vec::new()));
        let second = write(&store, &folder, 1, 4, &a, &[], first).unwrap();
        assert_eq!(whole(&folder).unwrap().0, second);
    }

    /// Flips a byte of the largest files in turn, at a few places. What sled makes of damage is tested with the store.
    #[test]
    fn damage_is_noticed_or_does_no_harm() {
        let dir = tempfile::tempdir().unwrap();
        let (store, folder) = store(&dir);
        write(&store, &folder, 1, 4, &export(200_000, 9), &[7; 1_000], Covered::default()).unwrap();
        let expected = whole(&folder).unwrap();
        let mut files = walk(&folder);
        files.sort_by_key(|file| std::cmp::Reverse(file.metadata().unwrap().len()));
        let (mut tries, mut noticed) = (0, 0);
        for file in files.iter().take(4) {
            let len = file.metadata().unwrap().len() as usize;
            for at in [0, len / 3, len / 2].into_iter().filter(|at| *at < len) {
                tries += 1;
                // A damaged store may stay locked for as long as the process lives.
                let copy = dir.path().join(format!("copy-{tries}"));
                for from in walk(&folder) {
                    let to = copy.join(from.strip_prefix(&folder).unwrap());
                    fs::create_dir_all(to.parent().unwrap()).unwrap();
                    let mut bytes = fs::read(&from).unwrap();
                    if from == *file {
                        bytes[at] ^= 0x40;
                    }
                    fs::write(to, bytes).unwrap();
                }
                let tried = read(&copy, 1).and_then(|found| {
                    found.map(|found| Ok((found.covered, found.graph.clone(), found.attributes()?))).transpose()
                });
                match tried {
                    Ok(found) => assert_eq!(found.as_ref(), Some(&expected), "{} at {at}", file.display()),
                    Err(StateError::Damaged { .. }) => noticed += 1,
                    Err(other) => panic!("{} at {at}: {other}", file.display()),
                }
            }
        }
        assert!(tries > 6 && noticed > 0, "{noticed} of {tries}");
    }

    fn walk(folder: &Path) -> Vec<PathBuf> {
        let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        paths.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
    }

    #[test]
    fn cost_stays_proportional() {
        let covered = Covered { watermark: 10, count: 100_000, generation: 1 };
        assert!(!is_due(covered, 110_000, 20));
        assert!(is_due(covered, 125_000, 20));
        assert!(!is_due(Covered::default(), 1_999, 5));
    }
}
