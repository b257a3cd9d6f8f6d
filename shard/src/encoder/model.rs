//! The model: the built-in one, or a folder in Hugging Face's ONNX layout.

use std::path::{Path, PathBuf};

use super::preprocess::Preprocessing;
use super::preprocessor_config;

/// EfficientNet-Lite0 without its classifier; see the README beside it.
const BUILT_IN: &[u8] = include_bytes!("../../models/efficientnet-lite0/model.onnx");
const BUILT_IN_CONFIG: &str = include_str!("../../models/efficientnet-lite0/preprocessor_config.json");
const BUILT_IN_NAME: &str = "efficientnet-lite0";

/// Where the graph may be, best first: an image tower alone is preferred to a model of several towers.
const GRAPHS: [&str; 4] = ["onnx/vision_model.onnx", "vision_model.onnx", "onnx/model.onnx", "model.onnx"];
const CONFIG: &str = "preprocessor_config.json";

/// Which model to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ModelSource {
    /// EfficientNet-Lite0, part of the executable.
    #[default]
    BuiltIn,
    /// A folder with a graph and a `preprocessor_config.json`.
    Directory(PathBuf),
}

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that must be there is not.
    #[error(
        "the model directory {} has no {missing}. Expected is Hugging Face's ONNX layout: a graph ({}) and {CONFIG}",
        directory.display(),
        GRAPHS.join(", ")
    )]
    Missing {
        /// As given.
        directory: PathBuf,
        /// The file, or what it is.
        missing: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The preprocessing is not understood.
    #[error("{} {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// Continues the sentence.
        problem: String,
    },
    /// The runtime refuses the graph, or it is none that turns pictures into embeddings.
    #[error("the model {model} cannot be used: {problem}")]
    Graph {
        /// Its name.
        model: String,
        /// What is wrong.
        problem: String,
    },
}

/// The graph, as the runtime takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Graph {
    /// ONNX, serialised.
    Bytes(&'static [u8]),
    /// A file, and perhaps its weights beside it.
    File(PathBuf),
}

/// A model that has been read, not yet loaded into a session.
#[derive(Debug, Clone)]
pub(super) struct Model {
    /// For people.
    pub name: String,
    /// For the runtime.
    pub graph: Graph,
    /// BLAKE3 over the graph and its external weights.
    pub digest: blake3::Hash,
    /// For pictures.
    pub preprocessing: Preprocessing,
}

impl Model {
    /// Reads and checks everything but the graph's inside. Blocks.
    pub(super) fn read(source: &ModelSource) -> Result<Self, ModelError> {
        match source {
            ModelSource::BuiltIn => Ok(Self {
                name: BUILT_IN_NAME.to_owned(),
                graph: Graph::Bytes(BUILT_IN),
                digest: blake3::hash(BUILT_IN),
                preprocessing: config(Path::new(CONFIG), BUILT_IN_CONFIG)?,
            }),
            ModelSource::Directory(directory) => Self::read_directory(directory),
        }
    }

    fn read_directory(directory: &Path) -> Result<Self, ModelError> {
        let missing = |missing| ModelError::Missing { directory: directory.to_owned(), missing };
        let graph = GRAPHS.map(|name| directory.join(name)).into_iter().find(|path| path.is_file());
        let graph = graph.ok_or_else(|| missing("model.onnx"))?;
        let config_path = directory.join(CONFIG);
        if !config_path.is_file() {
            return Err(missing(CONFIG));
        }
        let json = std::fs::read_to_string(&config_path)
            .map_err(|source| ModelError::Unreadable { path: config_path.clone(), source })?;
        let name = directory.canonicalize().ok().and_then(|p| Some(p.file_name()?.to_string_lossy().into_owned()));
        Ok(Self {
            name: name.unwrap_or_else(|| directory.display().to_string()),
            digest: digest(&graph)?,
            graph: Graph::File(graph),
            preprocessing: config(&config_path, &json)?,
        })
    }

    /// The name of the vector space: what decides whether two embeddings may be compared. `readout` says which output
    /// is used and how.
    pub(super) fn space_id(&self, readout: &str, dimension: u32) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.digest.as_bytes());
        for text in [self.preprocessing.canonical().as_str(), readout] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        hasher.update(&dimension.to_le_bytes());
        format!("omma-enc-{}", &hasher.finalize().to_hex()[..16])
    }
}

fn config(path: &Path, json: &str) -> Result<Preprocessing, ModelError> {
    preprocessor_config::parse(json).map_err(|problem| ModelError::Config { path: path.to_owned(), problem })
}

/// Over the graph, then over its external weights (`model.onnx_data`, `model.onnx.data` …) in the order of their names.
/// With no such files this is the plain digest of the graph, so that a copy of the built-in model is the same space.
fn digest(graph: &Path) -> Result<blake3::Hash, ModelError> {
    let unreadable = |path: &Path| {
        let path = path.to_owned();
        move |source| ModelError::Unreadable { path, source }
    };
    let mut files = vec![graph.to_owned()];
    if let (Some(folder), Some(name)) = (graph.parent(), graph.file_name().and_then(|n| n.to_str())) {
        for entry in std::fs::read_dir(folder).map_err(unreadable(folder))? {
            let path = entry.map_err(unreadable(folder))?.path();
            let rest = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix(name));
            if rest.is_some_and(|rest| rest.starts_with("_data") || rest.starts_with(".data")) {
                files.push(path);
            }
        }
    }
    files[1..].sort();
    let mut hasher = blake3::Hasher::new();
    for path in &files {
        let mut file = std::fs::File::open(path).map_err(unreadable(path))?;
        hasher.update_reader(&mut file).map_err(unreadable(path))?;
    }
    Ok(hasher.finalize())
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn the_built_in_model_is_the_one_that_its_readme_describes() {
        let digest: String = Sha256::digest(BUILT_IN).iter().map(|b| format!("{b:02x}")).collect();
        let readme = include_str!("../../models/efficientnet-lite0/README.md");
        assert!(readme.contains(&digest), "{digest} is not in the README");
    }

    #[test]
    fn a_copy_of_the_built_in_model_is_the_same_space() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("model.onnx"), BUILT_IN).unwrap();
        std::fs::write(folder.path().join(CONFIG), BUILT_IN_CONFIG).unwrap();
        let built_in = Model::read(&ModelSource::BuiltIn).unwrap();
        let copy = Model::read(&ModelSource::Directory(folder.path().to_owned())).unwrap();
        assert_eq!(built_in.space_id("r", 1280), copy.space_id("r", 1280));
        assert_ne!(built_in.space_id("r", 1280), copy.space_id("r", 1279));
        assert_ne!(built_in.space_id("r", 1280), copy.space_id("q", 1280));
        // Weights beside the graph are part of the model.
        std::fs::write(folder.path().join("model.onnx_data"), "weights").unwrap();
        let other = Model::read(&ModelSource::Directory(folder.path().to_owned())).unwrap();
        assert_ne!(built_in.space_id("r", 1280), other.space_id("r", 1280));
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let read = || Model::read(&ModelSource::Directory(folder.path().to_owned())).unwrap_err();
        assert!(read().to_string().contains("has no model.onnx"), "{}", read());
        std::fs::create_dir(folder.path().join("onnx")).unwrap();
        std::fs::write(folder.path().join("onnx/vision_model.onnx"), BUILT_IN).unwrap();
        assert!(read().to_string().contains("has no preprocessor_config.json"), "{}", read());
        std::fs::write(folder.path().join(CONFIG), "{}").unwrap();
        assert!(matches!(read(), ModelError::Config { .. }), "{}", read());
    }
}
