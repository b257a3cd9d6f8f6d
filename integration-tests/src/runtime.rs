//! The inference runtime's library, which `omma-shard --onnxruntime` wants.

use std::path::PathBuf;

use anyhow::{Context, Result};

/// Names a library that is there already.
const VARIABLE: &str = "OMMA_ONNXRUNTIME";

/// Path of `libonnxruntime.so`.
///
/// # Errors
/// If `OMMA_ONNXRUNTIME` is not set.
pub fn onnxruntime() -> Result<PathBuf> {
    std::env::var_os(VARIABLE).map(PathBuf::from).with_context(|| format!("{VARIABLE} is not set"))
}
