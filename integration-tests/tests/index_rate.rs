//! How fast `omma index` is beside the bare encoder with as many threads, on the shared photos. Slow, so only when asked
//! for:
//!
//! ```text
//! cargo build --release --workspace --bins --examples
//! cargo test --release -p omma-integration-tests --test index_rate -- --ignored --nocapture
//! ```

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::{binary, profile_folder, shared_data};
use omma_integration_tests::note;

/// Each in turn so often: the machine's mood changes.
const ROUNDS: usize = 5;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "encodes 3,000 photos several times: minutes; see the file's head"]
async fn omma_index_beside_the_bare_encoder() -> Result<()> {
    let Some(photos) = shared_data("photos") else { return Ok(()) };
    let cluster = Cluster::start(ClusterOptions::single("index_rate")).await?;
    let address = cluster.address()?.to_owned();
    let ratios = tokio::task::spawn_blocking(move || measure(&photos, &address)).await??;
    note!("omma index at {:.2} of the bare encoder (median of {ROUNDS} rounds)", ratios[ROUNDS / 2]);
    Ok(())
}

/// Ratios of all rounds, ascending.
fn measure(photos: &Path, address: &str) -> Result<Vec<f64>> {
    let folder = std::env::temp_dir().join(format!("omma-index-rate-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let list = folder.join("list");
    std::fs::write(&list, files(photos)?.join("\n"))?;
    let mut ratios = Vec::new();
    for round in 0..ROUNDS {
        let bare = bare_encoder(&list, &folder.join("out.npy"))?;
        let indexed = omma_index(photos, address, &format!("round-{round}"))?;
        note!(
            "round {round}: bare encoder {bare:.1} images/s, omma index {indexed:.1} images/s: {:.2}",
            indexed / bare
        );
        ratios.push(indexed / bare);
    }
    std::fs::remove_dir_all(&folder)?;
    ratios.sort_by(f64::total_cmp);
    Ok(ratios)
}

fn files(folder: &Path) -> Result<Vec<String>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path.display().to_string());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Pictures a second of the example `embed`.
fn bare_encoder(list: &Path, out: &Path) -> Result<f64> {
    let example = profile_folder()?.join("examples/embed");
    ensure!(example.is_file(), "{} is missing: see the head of this file", example.display());
    let run = Command::new(example).arg(out).arg("--list").arg(list).output()?;
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    ensure!(run.status.success(), "{said}");
    let rate = said.lines().find_map(|line| line.strip_suffix(" a second")?.rsplit(' ').next()?.parse().ok());
    rate.with_context(|| format!("no rate in {said}"))
}

/// Images a second, by its own account.
fn omma_index(photos: &Path, address: &str, collection: &str) -> Result<f64> {
    let mut command = Command::new(binary("omma")?);
    command.arg("index").arg(photos).args(["--collection", collection, "--json", "--endpoint"]);
    let run = command.arg(format!("http://{address}")).output()?;
    ensure!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let report: serde_json::Value = serde_json::from_slice(&run.stdout)?;
    report["images_per_second"].as_f64().context("no rate in the report")
}
