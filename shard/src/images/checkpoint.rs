//! Checkpoints: an HNSW graph and the attribute index in a file, so that a restart need not build them again.
//!
//! A file of their own and not the store, because they can be done without: a damaged checkpoint costs a rebuild, a damaged
//! store costs the replica. It is written beside, synced and renamed: it is there whole or not at all.
//!
//! A file: eight bytes, of which the last is the version; the graph; the attribute index; the manifest, sealed; the
//! manifest's length (4 bytes, little endian).

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use omma_proto::internal::v1::CheckpointManifest;

use super::keys::RecordKey;
use crate::format::{open_message, seal_message};
use crate::group::state_machine::StateError;
use crate::index::Export;
use crate::store::Store;

const MAGIC: &[u8; 8] = b"ommackp\x02";

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

fn path(folder: &Path, uid: u64) -> PathBuf {
    folder.join(format!("{uid:016x}"))
}

fn at(path: &Path) -> impl FnOnce(std::io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::File { path, source }
}

/// Writes a checkpoint after `previous`. Records up to its watermark are durable, too, when this returns.
pub(super) fn write(
    store: &Store,
    folder: &Path,
    uid: u64,
    dimension: u32,
    export: &Export,
    attributes: &[u8],
    previous: Covered,
) -> Result<Covered, StateError> {
    // A graph must not name records that a crash takes back.
    store.flush()?;
    let manifest = CheckpointManifest {
        collection_uid: uid,
        generation: previous.generation + 1,
        watermark: export.watermark,
        graph_count: export.count as u64,
        bytes: export.bytes.len() as u64,
        chunks: 0,
        digest: blake3::hash(&export.bytes).as_bytes().to_vec().into(),
        dimension,
        attribute_bytes: attributes.len() as u64,
        attribute_chunks: 0,
        attribute_digest: blake3::hash(attributes).as_bytes().to_vec().into(),
    };
    let sealed = seal_message(&manifest);
    let length = (sealed.len() as u32).to_le_bytes();
    std::fs::create_dir_all(folder).map_err(at(folder))?;
    let (path, temporary) = (path(folder, uid), folder.join("new"));
    let parts = [&MAGIC[..], &export.bytes, attributes, &sealed, &length];
    if let Err(error) = write_file(folder, &temporary, &path, &parts) {
        // Half a checkpoint is good for nothing, and there may be no room to spare.
        drop(std::fs::remove_file(&temporary));
        return Err(at(&path)(error));
    }
    Ok(Covered { watermark: export.watermark, count: export.count, generation: manifest.generation })
}

fn write_file(folder: &Path, temporary: &Path, path: &Path, parts: &[&[u8]]) -> std::io::Result<()> {
    let mut file = File::create(temporary)?;
    parts.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()?;
    std::fs::rename(temporary, path)?;
    File::open(folder)?.sync_all()
}

/// A checkpoint as it was found.
pub(super) struct Found {
    pub(super) covered: Covered,
    bytes: Vec<u8>,
    manifest: CheckpointManifest,
}

/// The newest checkpoint of a collection; `None` if there is none.
pub(super) fn read(folder: &Path, uid: u64) -> Result<Option<Found>, StateError> {
    let path = path(folder, uid);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(at(&path)(e)),
    };
    let damaged = |reason: &str| damaged(&path, reason);
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| damaged("it does not begin as a checkpoint of this version"))?;
    let (body, length) = body.split_last_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
    let parts = body.len().checked_sub(u32::from_le_bytes(*length) as usize);
    let (parts, sealed) = body.split_at(parts.ok_or_else(|| damaged("its manifest is cut"))?);
    let manifest: CheckpointManifest = open_message(&format!("manifest of {}", path.display()), sealed)?;
    if parts.len() as u64 != manifest.bytes.saturating_add(manifest.attribute_bytes) || manifest.collection_uid != uid {
        return Err(damaged("it has another length than its manifest says"));
    }
    let covered = Covered {
        watermark: manifest.watermark,
        count: usize::try_from(manifest.graph_count).map_err(|_| damaged("its size is absurd"))?,
        generation: manifest.generation,
    };
    let found = Found { covered, bytes, manifest };
    if blake3::hash(found.graph()).as_bytes()[..] != found.manifest.digest[..] {
        return Err(damaged("the digest of its graph is wrong"));
    }
    Ok(Some(found))
}

impl Found {
    pub(super) fn graph(&self) -> &[u8] {
        let end = MAGIC.len() + self.manifest.bytes as usize;
        self.bytes.get(MAGIC.len()..end).unwrap_or_default()
    }

    /// The attribute index of that checkpoint.
    pub(super) fn attributes(&self) -> Result<&[u8], StateError> {
        let begin = MAGIC.len() + self.manifest.bytes as usize;
        let bytes = self.bytes.get(begin..begin + self.manifest.attribute_bytes as usize).unwrap_or_default();
        match blake3::hash(bytes).as_bytes()[..] == self.manifest.attribute_digest[..] {
            true => Ok(bytes),
            false => Err(damaged(Path::new("checkpoint"), "the digest of its attribute index is wrong")),
        }
    }
}

fn damaged(path: &Path, reason: &str) -> StateError {
    StateError::Damaged { what: path.display().to_string(), reason: reason.to_owned() }
}

/// Removes a collection's checkpoint.
pub(super) fn remove(folder: &Path, uid: u64) -> Result<(), StateError> {
    let path = path(folder, uid);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(at(&path)(e)),
        _ => Ok(()),
    }
}

/// Removes all checkpoints of a folder.
pub(super) fn remove_all(folder: &Path) -> Result<(), StateError> {
    match std::fs::remove_dir_all(folder) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(at(folder)(e)),
        _ => Ok(()),
    }
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

    fn store(dir: &tempfile::TempDir) -> (Store, PathBuf) {
        let store = Store::open(dir.path(), 64 << 20, Duration::from_secs(1)).unwrap();
        (store, dir.path().join("checkpoints"))
    }

    #[test]
    fn the_newest_is_read_back_and_the_old_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (store, folder) = store(&dir);
        assert!(read(&folder, 1).unwrap().is_none());
        let (a, b) = (export(3_000_000, 5), export(200_000, 9));
        let first = write(&store, &folder, 1, 4, &a, b"attributes", Covered::default()).unwrap();
        let found = read(&folder, 1).unwrap().unwrap();
        assert_eq!(
            (found.covered, found.graph(), found.attributes().unwrap()),
            (first, &a.bytes[..], &b"attributes"[..])
        );
        let second = write(&store, &folder, 1, 4, &b, &[], first).unwrap();
        assert_eq!(second, Covered { watermark: 9, count: 2000, generation: 2 });
        let found = read(&folder, 1).unwrap().unwrap();
        assert_eq!((found.covered, found.graph(), found.attributes().unwrap()), (second, &b.bytes[..], &[][..]));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        remove(&folder, 1).unwrap();
        remove(&folder, 1).unwrap();
        assert!(read(&folder, 1).unwrap().is_none());
    }

    #[test]
    fn damage_is_noticed_wherever_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (store, folder) = store(&dir);
        write(&store, &folder, 1, 4, &export(2_000, 9), &[7; 1_000], Covered::default()).unwrap();
        let whole = std::fs::read(path(&folder, 1)).unwrap();
        let tried = |bytes: &[u8]| {
            std::fs::write(path(&folder, 1), bytes).unwrap();
            read(&folder, 1).and_then(|found| found.unwrap().attributes().map(|a| a.len()))
        };
        assert_eq!(tried(&whole).unwrap(), 1_000);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0x40;
            assert!(matches!(tried(&flipped), Err(StateError::Damaged { .. })), "byte {at}");
        }
        for end in (0..whole.len()).step_by(97) {
            assert!(matches!(tried(&whole[..end]), Err(StateError::Damaged { .. })), "cut at {end}");
        }
    }

    #[test]
    fn cost_stays_proportional() {
        let covered = Covered { watermark: 10, count: 100_000, generation: 1 };
        assert!(!is_due(covered, 110_000, 20));
        assert!(is_due(covered, 125_000, 20));
        assert!(!is_due(Covered::default(), 1_999, 5));
    }
}
