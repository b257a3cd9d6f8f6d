//! Where things are: the binaries under test, a test's logs and data, the shared test pictures.

use std::path::{Path, PathBuf};

use crate::note;
use anyhow::{Context, Result, bail};

/// `target/<profile>` of the running test, where its workspace's binaries are.
///
/// # Errors
/// If the running executable is not in a Cargo target folder.
pub fn profile_folder() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("where is the running test?")?;
    // target/<profile>/deps/<test>-<hash>
    let folder = exe.parent().and_then(Path::parent).context("the test does not run from a target folder")?;
    Ok(folder.to_owned())
}

/// The `target` folder of the running test.
///
/// # Errors
/// As [`profile_folder`].
pub fn target_folder() -> Result<PathBuf> {
    Ok(profile_folder()?.parent().context("the test does not run from a target folder")?.to_owned())
}

/// A binary of this workspace.
///
/// # Errors
/// If it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = profile_folder()?.join(name);
    if !path.is_file() {
        bail!(
            "{} is missing: `cargo test --workspace` builds it, or run `cargo build --workspace --bins` first",
            path.display()
        );
    }
    Ok(path)
}

/// The repository's root.
pub fn repository() -> PathBuf {
    // Normalised, so that messages show no "..".
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// A file or folder of the shared test pictures (`shared/data/…` beside the repository or in a folder above it);
/// `None`, with a message, where there are none. `OMMA_TEST_DATA` names another place.
pub fn shared_data(relative: &str) -> Option<PathBuf> {
    let found = match std::env::var_os("OMMA_TEST_DATA") {
        Some(folder) => Some(PathBuf::from(folder).join(relative)).filter(|p| p.exists()),
        None => repository().ancestors().map(|a| a.join("shared/data").join(relative)).find(|p| p.exists()),
    };
    if found.is_none() {
        note!("SKIPPED: no shared/data/{relative} beside the repository or above it (OMMA_TEST_DATA may name it)");
    }
    found
}

/// Whether this runs in continuous integration, where nothing may be skipped for want of a tool.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|v| !v.is_empty() && v != "false" && v != "0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_binary_is_told_how_to_build() {
        let message = binary("omma-no-such-thing").unwrap_err().to_string();
        assert!(message.contains("cargo test --workspace"), "{message}");
    }

    #[test]
    fn the_repository_has_the_protocol() {
        assert!(repository().join("proto/omma/v1/types.proto").is_file());
    }
}
