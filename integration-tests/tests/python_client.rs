//! A client that is not Rust: Python with grpcio, from nothing but the .proto files.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::{in_ci, repository};
use omma_integration_tests::python::{Python, prepare};

#[tokio::test(flavor = "multi_thread")]
async fn a_python_program_streams_searches_and_reads_errors() -> Result<()> {
    let python = match tokio::task::spawn_blocking(prepare).await? {
        Ok(python) => python,
        Err(why) if in_ci() => return Err(why.context("the Python client could not be prepared")),
        Err(why) => {
            println!("SKIPPED: the Python client could not be prepared: {why:#}");
            return Ok(());
        }
    };
    let cluster = Cluster::start(ClusterOptions::named("python_client")).await?;
    let address = cluster.address()?.to_owned();
    let script = repository().join("integration-tests/python/client.py");
    let said = tokio::task::spawn_blocking(move || run(&python, &script, &address)).await??;
    println!("{said}");
    ensure!(said.contains("all checks passed"), "the program did not come to its end");
    Ok(())
}

fn run(python: &Python, script: &Path, address: &str) -> Result<String> {
    let output = Command::new(&python.interpreter)
        .arg(script)
        .arg(address)
        .env("PYTHONPATH", &python.generated)
        .output()
        .with_context(|| format!("cannot run {}", python.interpreter.display()))?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    if !output.status.success() {
        bail!("client.py: {}\n{said}", output.status);
    }
    Ok(said)
}
