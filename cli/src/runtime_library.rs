//! The inference library that shard nodes load: found on this machine, or got once from a package registry.

use std::path::PathBuf;

use omma_common::{cache, fetch};

use crate::exit::CliError;
use crate::output::{Output, note};

/// Names the library by hand.
pub(crate) const VARIABLE: &str = "OMMA_ONNXRUNTIME";

/// `omma runtime-library`
pub(crate) async fn run(output: Output) -> Result<(), CliError> {
    let path = locate(None).await?;
    output.result(|| serde_json::json!({ "path": path }), || path.display().to_string())
}

/// The path to hand to shard nodes: the given one, that of the variable, that in the cache, or one that is got now.
pub(crate) async fn locate(given: Option<PathBuf>) -> Result<PathBuf, CliError> {
    let by_hand = given.or_else(|| std::env::var_os(VARIABLE).filter(|v| !v.is_empty()).map(PathBuf::from));
    if let Some(path) = by_hand {
        return match path.is_file() {
            true => Ok(path),
            false => Err(CliError::Usage(format!("there is no ONNX Runtime library at {}", path.display()))),
        };
    }
    if !cache::onnxruntime().is_some_and(|path| path.is_file()) {
        note("Getting the ONNX Runtime library (28 MB, once) from PyPI …");
    }
    tokio::task::spawn_blocking(fetch::onnxruntime)
        .await
        .map_err(|_| CliError::Failed("getting the ONNX Runtime library was interrupted".into()))?
        .map_err(|e| CliError::Failed(e.to_string()))
}
