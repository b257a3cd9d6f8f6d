//! Retrieval quality on the shared photos, beside brute force. Slow, so only when asked for:
//!
//! ```text
//! cargo build --release --workspace --bins
//! cargo test --release -p omma-integration-tests --test quality -- --ignored --nocapture
//! ```

use anyhow::Result;
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::{repository, shared_data};
use omma_integration_tests::note;
use omma_integration_tests::python::{prepare, run_script};

#[tokio::test(flavor = "multi_thread")]
#[ignore = "encodes 2,100 photos: minutes; see the file's head"]
async fn as_good_as_brute_force() -> Result<()> {
    let Some(labels) = shared_data("labels.csv") else { return Ok(()) };
    let data = labels.with_file_name("");
    let python = tokio::task::spawn_blocking(prepare).await??;
    let cluster = Cluster::start(ClusterOptions::named("quality")).await?;
    let script = repository().join("integration-tests/python/quality.py");
    let arguments = [cluster.address()?.to_owned(), data.display().to_string()];
    note!("{}", tokio::task::spawn_blocking(move || run_script(&python, &script, &arguments)).await??);
    Ok(())
}
