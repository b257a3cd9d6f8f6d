//! The inference runtime's library, which `omma-shard --onnxruntime` wants.

use std::path::PathBuf;

use anyhow::{Context, Result};
use omma_common::fetch;

/// Names a library that is there already.
const VARIABLE: &str = "OMMA_ONNXRUNTIME";

/// Path of the library: `OMMA_ONNXRUNTIME`, or the pinned one out of the cache folder, fetched if it is not there.
///
/// # Errors
/// If it has to be fetched and cannot be.
pub async fn onnxruntime() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(VARIABLE) {
        return Ok(given.into());
    }
    // Minutes at worst, through pip.
    let fetched = tokio::task::spawn_blocking(fetch::onnxruntime).await.context("fetching panicked")?;
    fetched.context("the ONNX Runtime library")
}
