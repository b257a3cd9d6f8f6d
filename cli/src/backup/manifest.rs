//! What a backup is of. A group's manifest is written when all its parts are there, the whole one's last.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::part::Part;
use crate::exit::CliError;

pub(crate) const FORMAT: u32 = 1;

/// One shard group's images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupManifest {
    pub(crate) format: u32,
    /// Of the collection: never used again for another.
    pub(crate) collection_uid: u64,
    /// Of the cluster map that the groups are those of.
    pub(crate) map_epoch: u64,
    pub(crate) group_id: u32,
    /// The images are those at this applied index.
    pub(crate) applied_index: u64,
    pub(crate) images: u64,
    /// Of these images, hexadecimal.
    pub(crate) digest: String,
    pub(crate) parts: Vec<Part>,
}

/// A whole backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) collection: String,
    pub(crate) vector_space: String,
    pub(crate) dimension: u32,
    /// By its name in the protocol.
    #[serde(default)]
    pub(crate) quantization: String,
    pub(crate) images: u64,
    /// Of all images, whatever group they are in.
    pub(crate) digest: String,
    pub(crate) groups: Vec<GroupManifest>,
}

/// Where a group's manifest is.
pub(crate) fn group_path(folder: &Path, group: u32) -> PathBuf {
    folder.join(format!("group-{group}.json"))
}

/// Where the whole manifest is.
pub(crate) fn path(folder: &Path) -> PathBuf {
    folder.join("manifest.json")
}

/// What is there; `None` if nothing is.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, CliError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(CliError::reading(path)(e)),
    };
    // The first line is the checksum of the rest.
    let damaged = |why: &str| CliError::Failed(format!("{} is damaged: {why}", path.display()));
    let text = String::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
    let (sum, json) = text.split_once('\n').ok_or_else(|| damaged("it has one line"))?;
    if sum.trim_start_matches("blake3 ") != blake3::hash(json.as_bytes()).to_hex().as_str() {
        return Err(damaged("its checksum is wrong"));
    }
    serde_json::from_str(json).map(Some).map_err(|e| damaged(&e.to_string()))
}

/// Written beside, synced and renamed: it is there whole or not at all.
pub(crate) fn write(path: &Path, manifest: &impl Serialize) -> Result<(), CliError> {
    let json = serde_json::to_string_pretty(manifest).map_err(|e| CliError::Failed(e.to_string()))?;
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = File::create(&temporary)?;
        writeln!(file, "blake3 {}", blake3::hash(json.as_bytes()).to_hex())?;
        file.write_all(json.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(CliError::writing(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_whole_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = path(dir.path());
        assert_eq!(read::<Manifest>(&path).unwrap(), None);
        let manifest = Manifest {
            format: FORMAT,
            collection: "a".into(),
            vector_space: "s".into(),
            dimension: 4,
            quantization: String::new(),
            images: 7,
            digest: "00".into(),
            groups: Vec::new(),
        };
        write(&path, &manifest).unwrap();
        assert_eq!(read::<Manifest>(&path).unwrap(), Some(manifest));
        let whole = std::fs::read(&path).unwrap();
        for at in 7..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, flipped).unwrap();
            assert!(read::<Manifest>(&path).unwrap_err().to_string().contains("manifest.json"), "byte {at}");
        }
    }
}
