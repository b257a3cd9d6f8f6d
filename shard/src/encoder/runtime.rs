//! The ONNX Runtime library: where it is, and loading it, once per process. Never touches the network.

use std::fmt;
use std::path::{Path, PathBuf};

use omma_common::cache;
use ort::environment::Environment;
use parking_lot::Mutex;

/// Variables that name the library, the first that is set wins.
const VARIABLES: [&str; 2] = ["OMMA_ONNXRUNTIME", "ORT_DYLIB_PATH"];

/// Why the library is not there.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// Named by the user, and no file.
    #[error("{from} names {}, which is not a file; it must name ONNX Runtime's shared library", path.display())]
    NotAFile {
        /// The flag or variable.
        from: &'static str,
        /// Its value.
        path: PathBuf,
    },
    /// In none of the usual places.
    #[error(
        "no ONNX Runtime library ({name}) was found. Name it with --onnxruntime PATH or OMMA_ONNXRUNTIME=PATH. It is in \
         the PyPI package onnxruntime: `pip download --no-deps onnxruntime=={version}`, unzip, \
         onnxruntime/capi/{name}.{version}. Looked at:{tried}",
        name = library_name(),
        version = cache::ONNXRUNTIME_VERSION
    )]
    NotFound {
        /// Places, and what was wrong with what was there.
        tried: Tried,
    },
    /// Found, but no library, or one that is too old.
    #[error("cannot use the ONNX Runtime library {}: {problem}", path.display())]
    Unusable {
        /// The library.
        path: PathBuf,
        /// As the loader says it.
        problem: String,
    },
    /// A process can load only one.
    #[error("this process has already loaded ONNX Runtime from {}; it cannot also use {}", loaded.display(), asked.display())]
    AnotherLoaded {
        /// In use.
        loaded: PathBuf,
        /// Named now.
        asked: PathBuf,
    },
}

/// Where the library was looked for, and why it was not taken.
#[derive(Debug, Default)]
pub struct Tried(Vec<(PathBuf, String)>);

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(path, why)| write!(f, "\n  {}: {why}", path.display()))
    }
}

/// The loaded library.
#[derive(Clone)]
pub(super) struct Runtime {
    /// What sessions are made in.
    pub environment: Environment,
    /// The library's file, links resolved.
    pub path: PathBuf,
}

/// The one of this process, kept until it ends: sessions must not outlive it.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// Loads the library, unless that has been done. `named` is the user's `--onnxruntime`.
pub(super) fn load(named: Option<&Path>) -> Result<Runtime, RuntimeError> {
    let named = match named {
        Some(path) => Some(("--onnxruntime", path.to_owned())),
        None => VARIABLES.iter().find_map(|&v| Some((v, std::env::var_os(v).filter(|p| !p.is_empty())?.into()))),
    };
    let mut loaded = LOADED.lock();
    if let Some((from, path)) = named {
        // Resolved here: a relative path would be taken as relative to the executable.
        let path = path.canonicalize().ok().filter(|p| p.is_file()).ok_or(RuntimeError::NotAFile { from, path })?;
        return match &*loaded {
            Some(runtime) if runtime.path == path => Ok(runtime.clone()),
            Some(runtime) => Err(RuntimeError::AnotherLoaded { loaded: runtime.path.clone(), asked: path }),
            None => open(&path, &mut loaded),
        };
    }
    if let Some(runtime) = &*loaded {
        return Ok(runtime.clone());
    }
    let mut tried = Tried::default();
    for place in places() {
        let Some(path) = library_at(&place) else {
            tried.0.push((place, "not there".into()));
            continue;
        };
        match open(&path, &mut loaded) {
            Err(RuntimeError::Unusable { path, problem }) => tried.0.push((path, problem)),
            other => return other,
        }
    }
    Err(RuntimeError::NotFound { tried })
}

fn open(path: &Path, loaded: &mut Option<Runtime>) -> Result<Runtime, RuntimeError> {
    let unusable = |problem: String| RuntimeError::Unusable { path: path.to_owned(), problem };
    let environment = ort::init_from(path)
        .map_err(|e| unusable(e.to_string()))?
        .with_name("omma")
        .with_telemetry(false)
        .build()
        .map_err(|e| unusable(e.to_string()))?;
    // Everything below a warning would be formatted only to be thrown away.
    environment.set_log_level(ort::logging::LogLevel::Warning);
    let runtime = Runtime { environment, path: path.to_owned() };
    *loaded = Some(runtime.clone());
    Ok(runtime)
}

/// Folders, and one file, in the order of search: beside the executable, where `omma_common::fetch` puts it, the system's.
fn places() -> Vec<PathBuf> {
    let mut places = Vec::new();
    if let Some(folder) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        places.push(folder.to_owned());
        places.extend(folder.parent().map(|up| up.join("lib")));
    }
    places.extend(cache::onnxruntime());
    let multiarch = format!("/usr/lib/{}-linux-gnu", std::env::consts::ARCH);
    let system = ["/opt/onnxruntime/lib", "/usr/local/lib", &multiarch, "/usr/lib64", "/usr/lib", "/opt/homebrew/lib"];
    places.extend(system.map(PathBuf::from));
    places
}

/// `place` itself if it is a file; in a folder, the library without a version, else the one with the highest.
fn library_at(place: &Path) -> Option<PathBuf> {
    if place.is_file() {
        return place.canonicalize().ok();
    }
    let plain = place.join(library_name());
    let versioned = |name: &str| match std::env::consts::OS {
        "macos" => name.strip_prefix("libonnxruntime.").and_then(|rest| rest.strip_suffix(".dylib")).and_then(version),
        _ => name.strip_prefix("libonnxruntime.so.").and_then(version),
    };
    let highest = || {
        let entries = std::fs::read_dir(place).ok()?;
        let found = entries.flatten().filter_map(|e| Some((versioned(e.file_name().to_str()?)?, e.path())));
        Some(found.max()?.1)
    };
    let path = if plain.is_file() { plain } else { highest()? };
    path.canonicalize().ok().filter(|p| p.is_file())
}

/// `1.24.4` as numbers, so that 1.9 comes before 1.24.
fn version(text: &str) -> Option<Vec<u32>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

fn library_name() -> &'static str {
    match std::env::consts::OS {
        "macos" => "libonnxruntime.dylib",
        "windows" => "onnxruntime.dll",
        _ => "libonnxruntime.so",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn takes_the_newest_of_a_folder() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(library_at(folder.path()), None);
        for name in ["libonnxruntime.so.1.9.0", "libonnxruntime.so.1.24.4", "libonnxruntime.so.x", "libonnxruntime.sox"]
        {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let found = library_at(folder.path()).unwrap();
        assert_eq!(found.file_name().unwrap(), "libonnxruntime.so.1.24.4");
        assert_eq!(library_at(&found), Some(found));
    }

    #[test]
    fn says_what_is_wrong_with_a_named_library() {
        let missing = load(Some(Path::new("/no/such/lib.so"))).err().unwrap();
        assert!(matches!(&missing, RuntimeError::NotAFile { from: "--onnxruntime", .. }), "{missing}");
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("lib.so");
        std::fs::write(&text, "no library").unwrap();
        let unusable = load(Some(&text)).err().unwrap();
        assert!(matches!(unusable, RuntimeError::Unusable { .. } | RuntimeError::AnotherLoaded { .. }), "{unusable}");
    }

    #[test]
    fn says_where_it_looked_and_what_to_do() {
        let tried = Tried(vec![("/usr/lib".into(), "not there".into())]);
        let message = RuntimeError::NotFound { tried }.to_string();
        for part in ["--onnxruntime", "OMMA_ONNXRUNTIME", "/usr/lib: not there", cache::ONNXRUNTIME_VERSION] {
            assert!(message.contains(part), "{message}");
        }
    }
}
