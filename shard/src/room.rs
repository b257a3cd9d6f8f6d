//! How much room is left on the disk, and what may still be written.
//!
//! Three marks, as shares of what is to be kept free: below the whole of it, new images are refused, while the log, the
//! state and checkpoints may go on; below half of it, no checkpoints are written; below a quarter, nothing comes in from
//! other replicas either. So what was acknowledged can be applied, deletions can be made, and the store, which takes
//! nothing more after a failed write, does not get to see a full disk.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use omma_proto::internal::v1::DiskRoom;

/// Too little room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the disk of {} is nearly full: {} MiB are free and {} are to stay so (--min-free-disk). Make room on it, give it \
     more, or move replicas to other nodes",
    path.display(), free >> 20, wanted >> 20
)]
pub struct NoRoom {
    /// The node's data folder.
    pub path: PathBuf,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes that should be.
    pub wanted: u64,
}

type Measure = Arc<dyn Fn(&Path) -> io::Result<u64> + Send + Sync>;

/// Looks how much room there is. Clones share nothing and see the same.
#[derive(Clone)]
pub struct Room {
    folder: PathBuf,
    keep: u64,
    measure: Measure,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("folder", &self.folder).field("keep", &self.keep).finish_non_exhaustive()
    }
}

impl Room {
    /// On the disk of `folder`, of which `keep` bytes are to stay free; 0 for no checks at all.
    pub fn new(folder: &Path, keep: u64) -> Self {
        Self { folder: folder.to_owned(), keep, measure: Arc::new(free) }
    }

    /// Without any checks.
    pub fn unchecked() -> Self {
        Self::new(Path::new("."), 0)
    }

    /// With another way to measure.
    #[cfg(test)]
    pub(crate) fn measured(keep: u64, measure: impl Fn() -> io::Result<u64> + Send + Sync + 'static) -> Self {
        Self { folder: "disk".into(), keep, measure: Arc::new(move |_| measure()) }
    }

    /// Bytes that are free; `None` if the disk cannot be looked at.
    pub(crate) fn free(&self) -> Option<u64> {
        (self.measure)(&self.folder).ok()
    }

    /// Bytes that are to stay free.
    pub(crate) fn kept(&self) -> u64 {
        self.keep
    }

    /// How much room there is for images: ample is a quarter more than must stay free.
    pub(crate) fn look(&self) -> DiskRoom {
        match self.free() {
            Some(free) if free < self.keep => DiskRoom::None,
            Some(free) if free < self.keep.saturating_add(self.keep / 4) => DiskRoom::Little,
            _ => DiskRoom::Ample,
        }
    }

    /// For new images.
    pub(crate) fn for_images(&self) -> Result<(), NoRoom> {
        self.above(self.keep)
    }

    /// For a file of `bytes` that the node can do without.
    pub(crate) fn for_file(&self, bytes: u64) -> Result<(), NoRoom> {
        if self.keep == 0 { Ok(()) } else { self.above(self.keep / 2 + bytes) }
    }

    /// For anything that makes the log longer.
    pub(crate) fn for_log(&self) -> Result<(), NoRoom> {
        self.above(self.keep / 4)
    }

    /// A disk that cannot be looked at is not taken for full: what fails on it says why.
    fn above(&self, wanted: u64) -> Result<(), NoRoom> {
        match self.free() {
            Some(free) if free < wanted => Err(NoRoom { path: self.folder.clone(), free, wanted }),
            _ => Ok(()),
        }
    }
}

/// Bytes that this process may still write on the disk of `folder`.
fn free(folder: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(folder)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn less_may_be_written_the_less_room_there_is() {
        let left = Arc::new(AtomicU64::new(0));
        let room = Room::measured(400, {
            let left = left.clone();
            move || Ok(left.load(Ordering::Relaxed))
        });
        let may = |free: u64| {
            left.store(free, Ordering::Relaxed);
            [room.for_images().is_ok(), room.for_file(50).is_ok(), room.for_log().is_ok()]
        };
        assert_eq!(may(400), [true, true, true]);
        assert_eq!(may(399), [false, true, true]);
        assert_eq!(may(249), [false, false, true]);
        assert_eq!(may(99), [false, false, false]);
        let looked = [399, 400, 499, 500].map(|free| {
            left.store(free, Ordering::Relaxed);
            room.look()
        });
        assert_eq!(looked, [DiskRoom::None, DiskRoom::Little, DiskRoom::Little, DiskRoom::Ample]);
        left.store(99, Ordering::Relaxed);
        let error = room.for_images().unwrap_err();
        assert_eq!((error.free, error.wanted), (99, 400));
    }

    #[test]
    fn a_disk_that_cannot_be_looked_at_is_not_full() {
        let room = Room::measured(400, || Err(io::ErrorKind::NotFound.into()));
        assert!(room.for_images().is_ok() && room.free().is_none());
        let unchecked = Room::measured(0, || Ok(0));
        assert!(unchecked.for_file(50).is_ok() && unchecked.look() == DiskRoom::Ample, "no checks were asked for");
        assert!(Room::new(Path::new("/"), 1).free().is_some_and(|bytes| bytes > 0));
    }
}
