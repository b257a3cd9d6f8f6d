//! Who this node is: kept in its data folder, which only one process may use.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use omma_common::ids::NodeId;
use serde::{Deserialize, Serialize};

/// The data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Another process has it.
    #[error("the data folder {0} is in use by another process")]
    InUse(PathBuf),
    /// Its identity cannot be read or written.
    #[error("cannot use {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not what this program writes.
    #[error("{path} is damaged ({reason}): restore it, or remove the data folder and let the node join as a new one")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    node_id: NodeId,
}

/// A node id, and the lock on the folder it lives in.
#[derive(Debug)]
pub(super) struct Identity {
    /// Drawn when the folder was made.
    pub(super) node_id: NodeId,
    _lock: File,
}

impl Identity {
    /// Takes the folder, and makes it if need be.
    pub(super) fn open(data_dir: &Path) -> Result<Self, IdentityError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, source }
        };
        std::fs::create_dir_all(data_dir).map_err(io(data_dir))?;
        let lock_path = data_dir.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(io(&lock_path))?;
        lock.try_lock().map_err(|_| IdentityError::InUse(data_dir.to_owned()))?;

        let path = data_dir.join("node.json");
        let node_id = match std::fs::read(&path) {
            Ok(bytes) => parse(&path, &bytes)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => create(data_dir, &path).map_err(io(&path))?,
            Err(e) => return Err(io(&path)(e)),
        };
        Ok(Self { node_id, _lock: lock })
    }

    /// A new id in the same folder, whose old one is gone from it.
    pub(super) fn renewed(self, data_dir: &Path) -> Result<Self, IdentityError> {
        let path = data_dir.join("node.json");
        let node_id = create(data_dir, &path).map_err(|source| IdentityError::Io { path, source })?;
        Ok(Self { node_id, ..self })
    }
}

fn parse(path: &Path, bytes: &[u8]) -> Result<NodeId, IdentityError> {
    let damaged = |reason: String| IdentityError::Damaged { path: path.to_owned(), reason };
    let stored: Stored = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    match stored {
        Stored { format: 1, node_id } if node_id != 0 => Ok(node_id),
        Stored { format, .. } => Err(damaged(format!("format {format}"))),
    }
}

/// Written beside, synced and renamed: it is there whole or not at all.
fn create(data_dir: &Path, path: &Path) -> std::io::Result<NodeId> {
    // Fits a JSON number that any tool reads exactly.
    let node_id = rand::random_range(1..1u64 << 53);
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(&Stored { format: 1, node_id })?)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(data_dir)?.sync_all()?;
    Ok(node_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_id_and_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(dir.path()).unwrap();
        assert!(matches!(Identity::open(dir.path()), Err(IdentityError::InUse(_))));
        let id = first.node_id;
        drop(first);
        assert_eq!(Identity::open(dir.path()).unwrap().node_id, id);
    }

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("node.json"), "{").unwrap();
        let error = Identity::open(dir.path()).unwrap_err();
        assert!(matches!(&error, IdentityError::Damaged { .. }) && error.to_string().contains("node.json"));
    }
}
