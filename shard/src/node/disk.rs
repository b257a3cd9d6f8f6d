//! Disk space.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes that all files below `folder` take on disk; what cannot be looked at counts nothing.
pub(super) fn usage(folder: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let of = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => usage(&entry.path()),
        // In units of 512 bytes, whatever the file system's own blocks are. Files may have holes.
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    };
    entries.flatten().map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_files_in_folders() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(usage(dir.path()), 0);
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), vec![7; 100_000]).unwrap();
        fs::File::open(dir.path().join("a/b")).unwrap().sync_all().unwrap();
        assert!((100_000..200_000).contains(&usage(dir.path())), "{}", usage(dir.path()));
        assert_eq!(usage(&dir.path().join("none")), 0);
    }
}
