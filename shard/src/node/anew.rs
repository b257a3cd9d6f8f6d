//! Starting anew: a node whose stores are damaged joins again as a new one, if the cluster can do without what it held.
//!
//! What is found damaged is noted in the data folder first, so that the next start knows of damage that only a read met.
//! Then the old data go to a folder beside, the note last: whenever the process dies, the next start goes on.

use std::path::{Path, PathBuf};
use std::time::Duration;

use omma_common::tls::Dialer;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::identity::Identity;
use super::{IdentityError, NodeError, blocking, elsewhere};
use crate::config::ShardConfig;

const NOTE: &str = "damaged.json";
/// What a node has, but for the lock and the note.
const DATA: [&str; 4] = ["node.json", "raft", "state", "spool"];
/// How long other nodes may take to come up, and their groups to elect leaders.
const PATIENCE: Duration = Duration::from_secs(30);
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Serialize, Deserialize)]
struct Note {
    format: u32,
    reason: String,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { path, source }
}

/// Notes that the stores of `data_dir` are damaged.
pub(super) fn note(data_dir: &Path, reason: &str) -> Result<(), IdentityError> {
    let path = data_dir.join(NOTE);
    let write = || {
        let bytes = serde_json::to_vec(&Note { format: 1, reason: reason.to_owned() })?;
        std::fs::write(&path, bytes)?;
        std::fs::File::open(&path)?.sync_all()?;
        std::fs::File::open(data_dir)?.sync_all()
    };
    write().map_err(io(&path))
}

/// What was noted. A note that cannot be read is one all the same.
pub(super) fn noted(data_dir: &Path) -> Option<String> {
    let bytes = std::fs::read(data_dir.join(NOTE)).ok()?;
    let note = serde_json::from_slice::<Note>(&bytes);
    Some(note.map_or_else(|_| "the note of it cannot be read".to_owned(), |note| note.reason))
}

/// Makes a new node of this one. Fails, and changes nothing, if that might lose what only this node has.
pub(super) async fn begin(
    config: &ShardConfig,
    dialer: &Dialer,
    identity: Identity,
    reason: String,
) -> Result<Identity, NodeError> {
    let me = identity.node_id;
    tracing::error!(node_id = me, reason, "this node's data are damaged: can the cluster do without them?");
    let others: Vec<String> = config.peers.iter().filter(|peer| **peer != config.advertise).cloned().collect();
    let until = Instant::now() + PATIENCE;
    while let Err(why) = elsewhere::can_do_without(dialer, &others, me).await {
        if others.is_empty() || Instant::now() > until {
            return Err(NodeError::OnlyCopy { folder: config.data_dir.clone(), reason, why });
        }
        tokio::time::sleep(AGAIN).await;
    }
    let data_dir = config.data_dir.clone();
    let (identity, aside) = blocking(move || -> Result<_, IdentityError> {
        let aside = set_aside(&data_dir, &identity)?;
        Ok((identity.renewed(&data_dir)?, aside))
    })
    .await?;
    tracing::error!(
        before = me,
        node_id = identity.node_id,
        damaged = %aside.display(),
        "the node starts anew and is rebuilt by its peers; keep the damaged data for a report, or remove them"
    );
    Ok(identity)
}

/// Moves the data to a folder beside, in the place of what was put there before.
fn set_aside(data_dir: &Path, identity: &Identity) -> Result<PathBuf, IdentityError> {
    let aside = data_dir.join(format!("damaged-{:x}", identity.node_id));
    let earlier = std::fs::read_dir(data_dir).map_err(io(data_dir))?.flatten().map(|entry| entry.path());
    let is_earlier = |path: &PathBuf| {
        path.is_dir() && *path != aside && path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("damaged-"))
    };
    for path in earlier.filter(is_earlier) {
        std::fs::remove_dir_all(&path).map_err(io(&path))?;
    }
    std::fs::create_dir_all(&aside).map_err(io(&aside))?;
    for name in DATA.into_iter().chain([NOTE]) {
        let from = data_dir.join(name);
        if from.exists() {
            std::fs::rename(&from, aside.join(name)).map_err(io(&from))?;
        }
        std::fs::File::open(data_dir).and_then(|folder| folder.sync_all()).map_err(io(data_dir))?;
    }
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_data_are_set_aside_and_the_node_has_a_new_id() {
        let dir = tempfile::tempdir().unwrap();
        let mut identity = Identity::open(dir.path()).unwrap();
        for round in 0..2 {
            let before = identity.node_id;
            std::fs::create_dir(dir.path().join("raft")).unwrap();
            std::fs::write(dir.path().join("raft/log"), [round]).unwrap();
            note(dir.path(), "a flipped byte").unwrap();
            assert_eq!(noted(dir.path()).as_deref(), Some("a flipped byte"));
            let aside = set_aside(dir.path(), &identity).unwrap();
            identity = identity.renewed(dir.path()).unwrap();
            assert_ne!(identity.node_id, before);
            assert!(noted(dir.path()).is_none() && !dir.path().join("raft").exists());
            assert_eq!(std::fs::read(aside.join("raft/log")).unwrap(), [round]);
        }
        let folders = std::fs::read_dir(dir.path()).unwrap().filter(|e| e.as_ref().unwrap().path().is_dir());
        assert_eq!(folders.count(), 1, "only the newest is kept");
        assert!(matches!(Identity::open(dir.path()), Err(IdentityError::InUse(_))), "the folder stays taken");
    }
}
