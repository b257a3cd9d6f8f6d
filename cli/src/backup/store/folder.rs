//! Folders, written so that a power failure takes nothing back.

use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::local::LocalFileSystem;

use super::For;

/// Files are written under another name, synced and renamed, and then the folder is synced.
pub(super) fn open(folder: &Path, purpose: For) -> Result<Arc<dyn ObjectStore>> {
    if purpose == For::Writing {
        make(folder)?;
        clear_away(folder)?;
    }
    let opened = LocalFileSystem::new_with_prefix(folder);
    Ok(Arc::new(
        opened.map_err(|e| super::trouble::io(&e).unwrap_or_else(|| Error::other(e.to_string())))?.with_fsync(true),
    ))
}

/// Makes the folder and those above it; durable.
fn make(folder: &Path) -> Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = match folder.parent() {
        Some(above) if !above.as_os_str().is_empty() => above,
        _ => Path::new("."),
    };
    make(above)?;
    match std::fs::create_dir(folder) {
        Err(e) if e.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made?,
    }
    File::open(above)?.sync_all()
}

/// What interrupted writes have left: they have a number behind a `#` that the finished files have not.
fn clear_away(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let staged = name.to_str().and_then(|name| name.rsplit_once('#')).is_some_and(|(name, number)| {
            let ours = name.starts_with("group-") || name == crate::backup::manifest::NAME;
            ours && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
        });
        if staged {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_made_and_cleared_of_unfinished_files_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a").join("b");
        assert!(open(&folder, For::Reading).is_err());
        open(&folder, For::Writing).unwrap();
        let names =
            ["group-1-00000.part", "group-1-00000.part#1", "manifest.json#22", "mine#1", "group-1.json#x", "group-#"];
        names.iter().for_each(|name| std::fs::write(folder.join(name), "").unwrap());
        open(&folder, For::Reading).unwrap();
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), names.len());
        open(&folder, For::Writing).unwrap();
        let left = |name: &str| folder.join(name).exists();
        assert_eq!(names.map(left), [true, false, false, true, true, true]);
        std::fs::write(dir.path().join("file"), "").unwrap();
        assert!(open(&dir.path().join("file"), For::Writing).is_err());
    }
}
