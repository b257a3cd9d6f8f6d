//! A client that is not Rust: Python with grpcio, from nothing but the .proto files.

use anyhow::Result;
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::{in_ci, repository};
use omma_integration_tests::note;
use omma_integration_tests::python::{prepare, run_script};

#[tokio::test(flavor = "multi_thread")]
async fn a_python_program_streams_searches_and_reads_errors() -> Result<()> {
    let python = match tokio::task::spawn_blocking(prepare).await? {
        Ok(python) => python,
        Err(why) if in_ci() => return Err(why.context("the Python client could not be prepared")),
        Err(why) => {
            note!("SKIPPED: the Python client could not be prepared: {why:#}");
            return Ok(());
        }
    };
    let cluster = Cluster::start(ClusterOptions::named("python_client")).await?;
    let address = cluster.address()?.to_owned();
    let script = repository().join("integration-tests/python/client.py");
    note!("{}", tokio::task::spawn_blocking(move || run_script(&python, &script, &[address])).await??);
    Ok(())
}
