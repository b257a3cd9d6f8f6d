//! A checker that has never failed proves nothing: nodes that break a promise on purpose must be caught.
//!
//! Slow, as it builds a second `omma-shard` with the feature `broken` and lets storms pass until one is caught:
//!
//! ```text
//! cargo build --workspace --bins
//! cargo test -p omma-integration-tests --test broken -- --ignored --nocapture --test-threads 1
//! ```

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use omma_integration_tests::cluster::ClusterOptions;
use omma_integration_tests::disks::can_mount;
use omma_integration_tests::folders::repository;
use omma_integration_tests::note;
use omma_integration_tests::power::lost_in_power_failures;
use omma_integration_tests::storm::{StormOptions, cluster_options, run};

/// Storms until a broken promise must have been noticed.
const SEEDS: std::ops::Range<u64> = 1..9;

fn broken(what: &str, options: ClusterOptions) -> Result<ClusterOptions> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The whole workspace, so that its dependencies are those that are built already; one binary, so that the sound
    // ones stay as they are.
    let build = ["build", "--workspace", "--features", "omma-shard/broken", "--bin", "omma-shard-broken"];
    let status = Command::new(cargo).args(build).current_dir(repository()).status().context("cannot run cargo")?;
    ensure!(status.success(), "the broken node does not build");
    Ok(ClusterOptions {
        name: format!("broken_{what}"),
        shard_binary: "omma-shard-broken".to_owned(),
        environment: vec![("OMMA_BROKEN".to_owned(), what.to_owned())],
        ..options
    })
}

/// Storms pass until one is caught; the complaint must contain one of `words`.
async fn caught(what: &str, words: &[&str]) -> Result<()> {
    let options = broken(what, cluster_options("broken"))?;
    for seed in SEEDS {
        let storm = StormOptions { seed, lasts: Duration::from_secs(25), clients: 6 };
        match run(options.clone(), &storm).await {
            Ok(_) => note!("{what}: not noticed with seed {seed}"),
            Err(error) => {
                let told = format!("{error:#}");
                ensure!(words.iter().any(|word| told.contains(word)), "another complaint: {told}");
                let told: Vec<_> = told.lines().filter(|line| words.iter().any(|word| line.contains(word))).collect();
                note!("{what}: caught with seed {seed}: {}", told.first().unwrap_or(&""));
                return Ok(());
            }
        }
    }
    bail!("{what} was not noticed by any of the seeds {SEEDS:?}")
}

const NO_ORDER: &str = "no order explains";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds and runs broken nodes; see the file's head"]
async fn stale_reads_are_caught() -> Result<()> {
    caught("stale-reads", &[NO_ORDER]).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds and runs broken nodes; see the file's head"]
async fn forgotten_answers_are_caught() -> Result<()> {
    caught("forgotten-answers", &["when sent again", NO_ORDER]).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds and runs broken nodes; see the file's head"]
async fn a_log_without_fsync_is_caught_by_storms() -> Result<()> {
    caught("no-fsync", &[NO_ORDER, "session read", "DIGESTS DIFFER", "not converged"]).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds and runs broken nodes; see the file's head"]
async fn a_log_without_fsync_is_caught_by_power_failures() -> Result<()> {
    if !can_mount() {
        return Ok(());
    }
    let options = broken("no-fsync", ClusterOptions::single("broken_power"))?;
    let (acknowledged, lost) = lost_in_power_failures(options, 1, 2).await?;
    note!("no-fsync: {} of {acknowledged} acknowledged images lost in 2 power failures", lost.len());
    ensure!(!lost.is_empty(), "nothing was lost: the power failures are none");
    Ok(())
}
