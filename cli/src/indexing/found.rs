//! Which files of a folder are pictures, and what their ids are.

use std::io::Read;
use std::path::{Path, PathBuf};

use omma_common::ids::check_image_id;
use walkdir::{DirEntry, WalkDir};

use super::tally::Failure;

/// Formats that Omma decodes.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "gif", "webp", "bmp", "tif", "tiff"];

/// A picture on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    /// Path relative to the folder, parts separated by '/'.
    pub(crate) id: String,
    pub(crate) path: PathBuf,
}

/// What a folder holds.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// In the order of their ids.
    pub(crate) files: Vec<Found>,
    /// What could not be read, or has a path that is no id.
    pub(crate) failures: Vec<Failure>,
    /// Files that are no pictures.
    pub(crate) skipped: u64,
}

/// Walks a folder; blocks. Hidden files and folders are left out, links to files are followed.
pub(crate) fn list(folder: &Path) -> Listing {
    let mut listing = Listing::default();
    let visible = |entry: &DirEntry| entry.depth() == 0 || !entry.file_name().to_string_lossy().starts_with('.');
    for entry in WalkDir::new(folder).sort_by_file_name().into_iter().filter_entry(visible) {
        match entry {
            Ok(entry) if entry.path().is_file() => take(folder, entry.path(), &mut listing),
            Ok(_) => {}
            Err(error) => {
                let path = error.path().unwrap_or(folder).display().to_string();
                listing.failures.push(Failure { id: path, reason: error.to_string() });
            }
        }
    }
    listing.files.sort_by(|a, b| a.id.cmp(&b.id));
    listing
}

fn take(folder: &Path, path: &Path, listing: &mut Listing) {
    if !is_picture(path) {
        listing.skipped += 1;
        return;
    }
    match id_of(folder, path) {
        Ok(id) => listing.files.push(Found { id, path: path.to_owned() }),
        Err(reason) => listing.failures.push(Failure { id: path.display().to_string(), reason }),
    }
}

/// The path relative to `folder`, with '/' between its parts.
pub(crate) fn id_of(folder: &Path, path: &Path) -> Result<String, String> {
    let relative = path.strip_prefix(folder).map_err(|_| "lies outside the folder".to_owned())?;
    let parts: Option<Vec<&str>> = relative.components().map(|part| part.as_os_str().to_str()).collect();
    let id = parts.ok_or("its path is not UTF-8, so that it cannot be an id")?.join("/");
    check_image_id(&id).map_err(|problem| format!("its path cannot be an id: it {problem}"))?;
    Ok(id)
}

/// By extension; a file with another extension, or none, by its first bytes.
fn is_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    match extension {
        Some(extension) if EXTENSIONS.contains(&extension.as_str()) => true,
        _ => begins_like_a_picture(path),
    }
}

fn begins_like_a_picture(path: &Path) -> bool {
    let mut start = [0u8; 16];
    let read = std::fs::File::open(path).and_then(|mut file| file.read(&mut start));
    read.is_ok_and(|n| image::guess_format(&start[..n]).is_ok_and(|format| format.reading_enabled()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_relative_paths() {
        let folder = Path::new("/photos");
        assert_eq!(id_of(folder, Path::new("/photos/2024/cat 1.jpg")), Ok("2024/cat 1.jpg".into()));
        assert!(id_of(folder, Path::new("/elsewhere/a.jpg")).is_err());
        assert!(id_of(folder, Path::new("/photos/a\nb.jpg")).unwrap_err().contains("cannot be an id"));
        assert!(id_of(folder, &folder.join("x".repeat(257))).is_err());
        #[cfg(unix)]
        {
            use std::os::unix::ffi::OsStrExt;
            let odd = folder.join(std::ffi::OsStr::from_bytes(b"\xff.jpg"));
            assert!(id_of(folder, &odd).unwrap_err().contains("UTF-8"));
        }
    }

    #[test]
    fn pictures_are_found_by_name_or_content() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        };
        write("b.JPG", b"damaged, but it says that it is one");
        write("sub/a", b"\x89PNG\r\n\x1a\n0123");
        write("sub/notes.txt", b"text");
        write(".hidden/c.jpg", b"");
        write("empty", b"");
        let listing = list(folder.path());
        let ids: Vec<_> = listing.files.iter().map(|f| f.id.as_str()).collect();
        assert_eq!((ids, listing.skipped, listing.failures.len()), (vec!["b.JPG", "sub/a"], 2, 0));
    }

    #[test]
    fn a_folder_that_is_not_there_is_a_failure() {
        let listing = list(Path::new("/no/such/folder"));
        assert_eq!((listing.files.len(), listing.failures.len()), (0, 1));
    }
}
