//! Puts sled's metadata in order before sled opens them: it does not get over every moment at which it may be killed.
//!
//! A store's metadata are a snapshot and the logs after it, by number: `snapshot_4`, `log_5`, `log_6`. When sled opens a
//! store it writes `snapshot_6`, removes the logs and the old snapshot, and begins `log_7`. Killed in between, it leaves
//! a snapshot and no log after it. The next time it then writes that snapshot once more, under the same name, and removes
//! it as the old one: what it knows is in memory only. The start after that takes up an older snapshot, if one is left,
//! or none, and with it places in files that were overwritten or cut off long ago. (Older snapshots are left: sled
//! removes those that another has replaced from the working directory, where they are not.)
//!
//! So what is old is removed here, and there is always a log after the newest snapshot. Numbers have no gaps: a missing
//! log is the trace of a snapshot that is gone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use super::frames;

/// Digits of a number in a file's name.
const DIGITS: usize = 16;

/// Makes the metadata of the store in `folder` such that sled opens them as they are. `InvalidData` if they are damaged;
/// `WouldBlock` if somebody has the store open. A folder that is none yet is left alone.
pub(super) fn prepare(folder: &Path) -> io::Result<()> {
    forget_empty_cookie(folder)?;
    let metadata = folder.join("metadata");
    let lock = match File::open(&metadata) {
        Ok(lock) => lock,
        Err(e) if e.kind() == ErrorKind::NotFound => return Found::default().plan(has_objects(folder)?).map(drop),
        Err(e) => return Err(e),
    };
    // The one that sled takes: under a store that is open nothing may change.
    lock.try_lock()?;
    let prepared = put_in_order(folder, &metadata, &lock);
    // Not with the file: a process that is being started elsewhere in this one may hold it a little longer.
    lock.unlock()?;
    prepared
}

fn put_in_order(folder: &Path, metadata: &Path, handle: &File) -> io::Result<()> {
    let found = Found::read(metadata)?;
    let plan = found.plan(has_objects(folder)?)?;
    let newest = plan.logs.last();
    if let Some(snapshot) = plan.snapshot {
        frames::check_file(&snapshot_path(metadata, snapshot), false)?;
    }
    for log in &plan.logs {
        frames::check_file(&log_path(metadata, *log), Some(log) == newest)?;
    }
    for path in &plan.superseded(metadata) {
        tracing::debug!(path = %path.display(), "removing what a newer snapshot has replaced");
        std::fs::remove_file(path)?;
    }
    if let Some(log) = plan.first_log {
        File::create_new(log_path(metadata, log))?.sync_all()?;
    }
    handle.sync_all()
}

/// sled writes this file, 64 bytes that say how many entries a leaf has, without making sure of it.
fn forget_empty_cookie(folder: &Path) -> io::Result<()> {
    let path = folder.join("durability_cookie");
    match std::fs::metadata(&path) {
        Ok(file) if file.len() == 0 => std::fs::remove_file(&path),
        Ok(_) => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
    }
}

/// Whether anything was ever stored.
fn has_objects(folder: &Path) -> io::Result<bool> {
    let slabs = match std::fs::read_dir(folder.join("slabs")) {
        Ok(slabs) => slabs,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    for slab in slabs {
        if slab?.metadata()?.len() > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn snapshot_path(metadata: &Path, number: u64) -> PathBuf {
    metadata.join(format!("snapshot_{number:0DIGITS$x}"))
}

fn log_path(metadata: &Path, number: u64) -> PathBuf {
    metadata.join(format!("log_{number:0DIGITS$x}"))
}

fn number(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix).filter(|digits| digits.len() == DIGITS)?;
    u64::from_str_radix(digits, 16).ok()
}

/// The numbers of the files that there are.
#[derive(Debug, Default)]
struct Found {
    snapshots: BTreeSet<u64>,
    logs: BTreeSet<u64>,
}

impl Found {
    fn read(metadata: &Path) -> io::Result<Self> {
        let mut found = Self::default();
        for file in std::fs::read_dir(metadata)? {
            let name = file?.file_name();
            let name = name.to_string_lossy();
            found.snapshots.extend(number(&name, "snapshot_"));
            found.logs.extend(number(&name, "log_"));
        }
        Ok(found)
    }

    /// `has_objects`: whether there is something that these are the metadata of.
    fn plan(&self, has_objects: bool) -> io::Result<Plan> {
        let snapshot = self.snapshots.last().copied();
        // The first snapshot, of nothing, has the number 0.
        let first = snapshot.unwrap_or(0).saturating_add(1);
        let logs: Vec<u64> = self.logs.range(first..).copied().collect();
        if snapshot.is_none() && logs.is_empty() && has_objects {
            return Err(damaged("its metadata are gone".to_owned()));
        }
        if let Some((missing, found)) = (first..).zip(&logs).find(|(expected, log)| expected != *log) {
            return Err(damaged(format!("its metadata have a log {found} and no log {missing}")));
        }
        let old = |numbers: &BTreeSet<u64>, end: u64| numbers.range(..end).copied().collect();
        Ok(Plan {
            snapshot,
            first_log: (snapshot.is_some() && logs.is_empty()).then_some(first),
            logs,
            old_snapshots: old(&self.snapshots, snapshot.unwrap_or(0)),
            old_logs: old(&self.logs, first),
        })
    }
}

fn damaged(reason: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, reason)
}

/// What is to be done with the files that there are.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    snapshot: Option<u64>,
    /// After the snapshot.
    logs: Vec<u64>,
    /// The one to make, as there is none after the snapshot.
    first_log: Option<u64>,
    old_snapshots: Vec<u64>,
    old_logs: Vec<u64>,
}

impl Plan {
    /// Logs first: they are of no use without the snapshot before them.
    fn superseded(&self, metadata: &Path) -> Vec<PathBuf> {
        let logs = self.old_logs.iter().map(|log| log_path(metadata, *log));
        logs.chain(self.old_snapshots.iter().map(|snapshot| snapshot_path(metadata, *snapshot))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(snapshots: &[u64], logs: &[u64], has_objects: bool) -> io::Result<Plan> {
        let found = Found { snapshots: snapshots.iter().copied().collect(), logs: logs.iter().copied().collect() };
        found.plan(has_objects)
    }

    #[test]
    fn what_a_store_has_in_use_stays() {
        assert_eq!(plan(&[], &[], false).unwrap(), Plan::default());
        let used = Plan { snapshot: Some(4), logs: vec![5, 6], ..Plan::default() };
        assert_eq!(plan(&[4], &[5, 6], true).unwrap(), used);
        // The first snapshot may be missing: it is of nothing.
        assert_eq!(plan(&[], &[1, 2], true).unwrap(), Plan { logs: vec![1, 2], ..Plan::default() });
    }

    #[test]
    fn the_old_goes_and_a_snapshot_has_a_log() {
        let done = Plan { snapshot: Some(6), first_log: Some(7), ..Plan::default() };
        assert_eq!(plan(&[6], &[], true).unwrap(), done);
        assert_eq!(plan(&[0], &[], false).unwrap(), Plan { snapshot: Some(0), first_log: Some(1), ..Plan::default() });
        let found = plan(&[2, 4, 6], &[5, 6, 7], true).unwrap();
        assert_eq!((found.snapshot, &found.logs[..], found.first_log), (Some(6), &[7][..], None));
        assert_eq!((&found.old_snapshots[..], &found.old_logs[..]), (&[2, 4][..], &[5, 6][..]));
        assert_eq!(plan(&[4, 6], &[5, 6], true).unwrap().first_log, Some(7));
    }

    #[test]
    fn gaps_are_damage() {
        for (snapshots, logs) in [(&[][..], &[][..]), (&[], &[2]), (&[1], &[3]), (&[4], &[5, 7]), (&[4], &[6, 7])] {
            let error = plan(snapshots, logs, true).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidData, "{snapshots:?} {logs:?}");
        }
    }

    #[test]
    fn only_names_of_numbers_are_read() {
        assert_eq!(number("log_00000000000000fe", "log_"), Some(254));
        assert_eq!(number("snapshot_0000000000000002.tmp", "snapshot_"), None);
        assert_eq!(number("log_2", "log_"), None);
    }
}
