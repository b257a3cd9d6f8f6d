//! A folder of one's own beside the final place, so that a rename can be atomic; removed when dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::FetchError;

pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// A new folder in `parent`, which is created if missing.
    pub(super) fn new(parent: &Path) -> Result<Self, FetchError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        fs::create_dir_all(parent).map_err(FetchError::io(parent))?;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!(".scratch-{}-{number}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(Self(path)),
                // Left by a process of the same number that was killed.
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(FetchError::io(&path)(e)),
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Renames the folder to `place`. If another process was there first, its folder stays: both hold the same.
    pub(super) fn become_folder(self, place: &Path) -> Result<(), FetchError> {
        if let Some(parent) = place.parent() {
            fs::create_dir_all(parent).map_err(FetchError::io(parent))?;
        }
        match fs::rename(&self.0, place) {
            Err(e) if !place.is_dir() => Err(FetchError::io(place)(e)),
            _ => Ok(()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing is there any more after become_folder; nothing else depends on it being gone.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_two_stays_and_nothing_is_left_behind() {
        let home = Scratch::new(&std::env::temp_dir()).unwrap();
        let place = home.path().join("deep").join("place");
        for text in ["first", "second"] {
            let scratch = Scratch::new(home.path()).unwrap();
            fs::write(scratch.path().join("file"), text).unwrap();
            scratch.become_folder(&place).unwrap();
        }
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "first");
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
    }
}
