//! Archives to files, without leaving the folder and without end.

use std::fs;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use super::FetchError;

/// Most bytes that one archive may unpack to.
const MAX_BYTES: u64 = 1 << 30;
/// Most files that one archive may hold.
const MAX_FILES: usize = 50_000;

/// Unpacks the files of a zip archive (a wheel, say) whose path `wanted` accepts into `folder`; returns where they are.
/// Links are never made; paths that lead out of `folder` are an error, as is unpacking to more than 1 GiB.
pub fn unpack_zip(archive: &Path, folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, FetchError> {
    let bad = |problem: String| FetchError::Archive { archive: archive.to_owned(), problem };
    let file = fs::File::open(archive).map_err(FetchError::io(archive))?;
    let mut zip = zip::ZipArchive::new(file).map_err(|e| bad(e.to_string()))?;
    if zip.len() > MAX_FILES {
        return Err(bad(format!("it holds {} files; at most {MAX_FILES} are accepted", zip.len())));
    }
    let mut writer = Writer { archive, folder, left: MAX_BYTES, files: Vec::new() };
    for index in 0..zip.len() {
        let mut entry = zip.by_index(index).map_err(|e| bad(e.to_string()))?;
        let name = entry.name().map_err(|e| bad(e.to_string()))?.into_owned();
        if entry.is_file() && wanted(&name) {
            writer.write(&name, &mut entry)?;
        }
    }
    Ok(writer.files)
}

/// As [`unpack_zip`], for a gzipped tar archive (an npm package, say).
pub fn unpack_tgz(archive: &Path, folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, FetchError> {
    let bad = |problem: String| FetchError::Archive { archive: archive.to_owned(), problem };
    let file = fs::File::open(archive).map_err(FetchError::io(archive))?;
    // Bounds the headers and the skipped files too, which the writer does not see.
    let stream = flate2::read::GzDecoder::new(std::io::BufReader::new(file)).take(2 * MAX_BYTES);
    let mut tar = tar::Archive::new(stream);
    let mut writer = Writer { archive, folder, left: MAX_BYTES, files: Vec::new() };
    for (count, entry) in tar.entries().map_err(|e| bad(e.to_string()))?.enumerate() {
        let mut entry = entry.map_err(|e| bad(e.to_string()))?;
        if count >= MAX_FILES {
            return Err(bad(format!("it holds more than {MAX_FILES} files")));
        }
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if entry.header().entry_type().is_file() && wanted(&name) {
            writer.write(&name, &mut entry)?;
        }
    }
    Ok(writer.files)
}

struct Writer<'a> {
    archive: &'a Path,
    folder: &'a Path,
    left: u64,
    files: Vec<PathBuf>,
}

impl Writer<'_> {
    fn write(&mut self, name: &str, content: &mut impl Read) -> Result<(), FetchError> {
        let bad = |problem: String| FetchError::Archive { archive: self.archive.to_owned(), problem };
        let inside = inside(name).ok_or_else(|| bad(format!("{name:?} leads out of the folder")))?;
        let path = self.folder.join(inside);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(FetchError::io(parent))?;
        }
        let mut file = fs::File::create_new(&path).map_err(FetchError::io(&path))?;
        // One byte more than allowed tells "exactly full" from "too much": sizes in headers are not believed.
        let written =
            std::io::copy(&mut content.take(self.left + 1), &mut file).map_err(|e| bad(format!("{name:?}: {e}")))?;
        self.left =
            self.left.checked_sub(written).ok_or_else(|| bad(format!("it unpacks to more than {MAX_BYTES} bytes")))?;
        self.files.push(path);
        Ok(())
    }
}

/// `name` as a relative path of plain components.
fn inside(name: &str) -> Option<PathBuf> {
    let path = Path::new(name);
    let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
    (plain && !name.is_empty() && !name.contains(['\0', '\\', ':'])).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::super::scratch::Scratch;
    use super::*;

    fn tgz(entries: &[(&str, &[u8])]) -> (Scratch, PathBuf) {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let path = scratch.path().join("a.tgz");
        let mut tar =
            tar::Builder::new(flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), Default::default()));
        for (name, content) in entries {
            let mut header = tar::Header::new_gnu();
            // Past tar's own checks: as somebody hostile would.
            header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_size(content.len() as u64);
            header.set_cksum();
            tar.append(&header, *content).unwrap();
        }
        tar.into_inner().unwrap().finish().unwrap().flush().unwrap();
        (scratch, path)
    }

    #[test]
    fn unpacks_what_is_wanted() {
        let (scratch, archive) = tgz(&[("package/a.webp", b"A"), ("package/b.js", b"B")]);
        let folder = scratch.path().join("out");
        let files = unpack_tgz(&archive, &folder, |name| name.ends_with(".webp")).unwrap();
        assert_eq!(files, [folder.join("package/a.webp")]);
        assert_eq!(fs::read(&files[0]).unwrap(), b"A");
    }

    #[test]
    fn refuses_paths_that_lead_out() {
        for name in ["../evil", "/evil", "a/../../evil", "a\\..\\evil", "C:evil"] {
            let (scratch, archive) = tgz(&[(name, b"x")]);
            let error = unpack_tgz(&archive, &scratch.path().join("out"), |_| true).unwrap_err();
            assert!(error.to_string().contains("leads out"), "{name}: {error}");
        }
    }

    #[test]
    fn refuses_more_than_allowed() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let mut writer = Writer { archive: Path::new("a"), folder: scratch.path(), left: 10, files: Vec::new() };
        writer.write("fits", &mut [0u8; 10].as_slice()).unwrap();
        assert!(writer.write("more", &mut [0u8; 1].as_slice()).is_err());
    }

    #[test]
    fn refuses_what_is_no_archive() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let path = scratch.path().join("a.whl");
        fs::write(&path, "not a zip").unwrap();
        assert!(matches!(unpack_zip(&path, scratch.path(), |_| true), Err(FetchError::Archive { .. })));
    }
}
