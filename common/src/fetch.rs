//! Gets pinned packages from package registries, through the clients that people have anyway (`pip`, `npm`).
//!
//! A package is named by name, version and SHA-256; what arrives with another digest is thrown away. Archives and what
//! is unpacked from them stay in the [cache folder](crate::cache::folder), put there by an atomic rename, so that any
//! number of processes may ask for the same thing at the same time.
//!
//! Everything here blocks, for minutes at worst: call it from a thread of its own.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::cache;

mod client;
mod scratch;
mod unpack;

use scratch::Scratch;
pub use unpack::{unpack_tgz, unpack_zip};

/// Largest package that is accepted.
pub const MAX_PACKAGE_BYTES: u64 = 512 << 20;

/// Exactly one file of a registry.
#[derive(Debug, Clone, Copy)]
pub struct Pin {
    /// As the registry knows it.
    pub name: &'static str,
    /// Exact.
    pub version: &'static str,
    /// Of the package file, in lower-case hexadecimal.
    pub sha256: &'static str,
    /// For wheels with native code: which of a version's files. `None` for those that fit everywhere.
    pub wheel: Option<WheelTag>,
}

/// Picks one file among a version's wheels, whatever Python runs `pip`.
#[derive(Debug, Clone, Copy)]
pub struct WheelTag {
    /// As for pip's `--python-version`: `3.12`.
    pub python: &'static str,
    /// As for pip's `--abi`: `cp312`.
    pub abi: &'static str,
    /// As for pip's `--platform`, one or several.
    pub platforms: &'static [&'static str],
}

/// Why something could not be had. The messages say what to do by hand.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Neither of the variables that name a cache folder is set.
    #[error("no cache folder: set OMMA_CACHE (or XDG_CACHE_HOME, or HOME) to a folder that can be written")]
    NoCacheFolder,
    /// No client for the registry.
    #[error("{package} is needed and none of these could be run to get it: {tried}. Install one of them")]
    NoClient {
        /// `name==version`.
        package: String,
        /// The commands.
        tried: String,
    },
    /// The client ran and failed: no network, most often.
    #[error("`{command}` did not deliver {package}: {output}")]
    Client {
        /// `name==version`.
        package: String,
        /// The command line.
        command: String,
        /// How it ended, and the last it said.
        output: String,
    },
    /// What came is not what was pinned.
    #[error("{package} has SHA-256 {actual}, but {expected} is expected; it was thrown away")]
    Digest {
        /// `name==version`.
        package: String,
        /// Pinned.
        expected: &'static str,
        /// Found.
        actual: String,
    },
    /// An archive that cannot be read, or that reaches out of its folder, or unpacks to too much.
    #[error("cannot unpack {}: {problem}", archive.display())]
    Archive {
        /// The archive.
        archive: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// No pinned library for this kind of machine.
    #[error(
        "no ONNX Runtime library is pinned for {platform}. Install ONNX Runtime {} or later by hand and name its shared \
         library with --onnxruntime PATH or OMMA_ONNXRUNTIME=PATH",
        cache::ONNXRUNTIME_VERSION
    )]
    NoRuntimeForPlatform {
        /// Operating system and architecture.
        platform: String,
    },
    /// The cache folder could not be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl FetchError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> FetchError {
        let path = path.to_owned();
        move |source| FetchError::Io { path, source }
    }
}

/// A wheel from PyPI (or the index that pip is configured for), by `pip download`. Returns the verified file in the
/// cache folder.
pub fn pypi_wheel(pin: &Pin) -> Result<PathBuf, FetchError> {
    package(pin, "whl", client::pip_download)
}

/// A package from npm's registry, by `npm pack`. Returns the verified `.tgz` in the cache folder.
pub fn npm_package(pin: &Pin) -> Result<PathBuf, FetchError> {
    package(pin, "tgz", client::npm_pack)
}

/// The folder into which `archive` (as [`pypi_wheel`] or [`npm_package`] returned it) is unpacked, in the cache folder;
/// unpacked now unless it was before. Only files whose path in the archive `wanted` accepts; the same archive must
/// always be asked for with the same `wanted`.
pub fn unpacked(archive: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf, FetchError> {
    let cache = cache::folder().ok_or(FetchError::NoCacheFolder)?;
    let Some(stem) = archive.file_stem() else {
        return Err(FetchError::Archive { archive: archive.to_owned(), problem: "it has no name".into() });
    };
    let place = cache.join("unpacked").join(stem);
    if place.is_dir() {
        return Ok(place);
    }
    let scratch = Scratch::new(&cache)?;
    match archive.extension().is_some_and(|e| e == "tgz") {
        true => unpack_tgz(archive, scratch.path(), wanted)?,
        false => unpack_zip(archive, scratch.path(), wanted)?,
    };
    scratch.become_folder(&place)?;
    Ok(place)
}

/// The ONNX Runtime library out of the PyPI package `onnxruntime`, in the cache folder, where
/// [`cache::onnxruntime`] says.
pub fn onnxruntime() -> Result<PathBuf, FetchError> {
    let place = cache::onnxruntime().ok_or(FetchError::NoCacheFolder)?;
    if place.is_file() {
        return Ok(place);
    }
    let pin = onnxruntime_pin().ok_or_else(|| FetchError::NoRuntimeForPlatform {
        platform: format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH),
    })?;
    let wheel = pypi_wheel(&pin)?;
    let folder = place.parent().ok_or(FetchError::NoCacheFolder)?;
    let library = format!("onnxruntime/capi/libonnxruntime.so.{}", cache::ONNXRUNTIME_VERSION);
    let notices = ["onnxruntime/LICENSE", "onnxruntime/ThirdPartyNotices.txt"];
    let cache = cache::folder().ok_or(FetchError::NoCacheFolder)?;
    let (unpacking, flat) = (Scratch::new(&cache)?, Scratch::new(&cache)?);
    let files = unpack_zip(&wheel, unpacking.path(), |name| name == library || notices.contains(&name))?;
    for file in &files {
        let to = flat.path().join(file.file_name().unwrap_or_default());
        fs::rename(file, &to).map_err(FetchError::io(&to))?;
    }
    flat.become_folder(folder)?;
    match place.is_file() {
        true => Ok(place),
        false => Err(FetchError::Archive { archive: wheel, problem: format!("it holds no {library}") }),
    }
}

/// The same library for both, and the Python it is built for does not matter: only `pip` must be told one.
fn onnxruntime_pin() -> Option<Pin> {
    let pin = |sha256, platforms| Pin {
        name: "onnxruntime",
        version: cache::ONNXRUNTIME_VERSION,
        sha256,
        wheel: Some(WheelTag { python: "3.12", abi: "cp312", platforms }),
    };
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Some(pin(
            "0d640eb9f3782689b55cfa715094474cd5662f2f137be6a6f847a594b6e9705c",
            &["manylinux_2_27_x86_64", "manylinux_2_28_x86_64"],
        )),
        ("linux", "aarch64") => Some(pin(
            "1a5c5a544b22f90859c88617ecb30e161ee3349fcc73878854f43d77f00558b5",
            &["manylinux_2_27_aarch64", "manylinux_2_28_aarch64"],
        )),
        _ => None,
    }
}

/// From the cache if its digest is right, else through `get`, which leaves one file in the folder it is given.
fn package(
    pin: &Pin,
    extension: &str,
    get: impl FnOnce(&Pin, &Path, &Path) -> Result<(), FetchError>,
) -> Result<PathBuf, FetchError> {
    let cache = cache::folder().ok_or(FetchError::NoCacheFolder)?;
    let folder = cache.join("packages");
    let short = pin.sha256.get(..16).unwrap_or(pin.sha256);
    let name = format!("{}-{}-{short}", pin.name.replace(['/', '@'], "_"), pin.version);
    let place = folder.join(format!("{name}.{extension}"));
    if place.is_file() && digest(&place)? == pin.sha256 {
        return Ok(place);
    }
    fs::create_dir_all(&folder).map_err(FetchError::io(&folder))?;
    let scratch = Scratch::new(&cache)?;
    let download = scratch.path().join("download");
    fs::create_dir(&download).map_err(FetchError::io(&download))?;
    get(pin, &download, &scratch.path().join("log"))?;
    let file = only_file(&download)?.ok_or_else(|| FetchError::Client {
        package: client::spec(pin),
        command: "the registry's client".into(),
        output: "it ended well, but left no file".into(),
    })?;
    let actual = digest(&file)?;
    if actual != pin.sha256 {
        return Err(FetchError::Digest { package: client::spec(pin), expected: pin.sha256, actual });
    }
    fs::rename(&file, &place).map_err(FetchError::io(&place))?;
    Ok(place)
}

fn only_file(folder: &Path) -> Result<Option<PathBuf>, FetchError> {
    let mut files = fs::read_dir(folder).map_err(FetchError::io(folder))?;
    files.next().map(|entry| Ok(entry.map_err(FetchError::io(folder))?.path())).transpose()
}

/// SHA-256 of a file, at most [`MAX_PACKAGE_BYTES`] of it.
fn digest(path: &Path) -> Result<String, FetchError> {
    let mut file = fs::File::open(path).map_err(FetchError::io(path))?.take(MAX_PACKAGE_BYTES);
    let (mut hasher, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer).map_err(FetchError::io(path))? {
            0 => return Ok(hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()),
            n => hasher.update(&buffer[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let file = scratch.path().join("abc");
        fs::write(&file, "abc").unwrap();
        assert_eq!(digest(&file).unwrap(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn pins_are_whole_digests() {
        if let Some(pin) = onnxruntime_pin() {
            assert_eq!(pin.sha256.len(), 64);
        }
    }
}
