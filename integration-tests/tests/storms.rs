//! Storms of faults over a cluster of real processes, drawn from seeds.
//!
//! A few seeds always run. More of them, a minute each, when asked for; each adds a line to `target/storms.jsonl`:
//!
//! ```text
//! cargo build --workspace --bins
//! OMMA_STORMS=10 cargo test -p omma-integration-tests --test storms -- --ignored --nocapture many_storms
//! ```

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use omma_integration_tests::folders::target_folder;
use omma_integration_tests::note;
use omma_integration_tests::storm::{Report, StormOptions, cluster_options, run};
use omma_integration_tests::vectors::seed;
use serde_json::json;

/// Seeds that always run.
const SEEDS: [u64; 3] = [1, 2, 3];
const CLIENTS: usize = 6;

fn told(seed: u64, report: &Report) -> serde_json::Value {
    json!({
        "seed": seed,
        "faults": report.faults,
        "images": report.tally.images,
        "done": report.tally.done,
        "failed": report.tally.failed,
        "unknown": report.tally.unknown,
        "repeats": report.counts.repeats,
        "session_reads": report.counts.sessions,
        "any_searches": report.counts.any,
        "any_searches_failed": report.counts.any_failed,
        "converged_ms": report.converged.as_millis() as u64,
        "recall_before": report.recall.0,
        "recall_after": report.recall.1,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn fixed_seeds() -> Result<()> {
    for seed in SEEDS {
        let storm = StormOptions { seed, lasts: Duration::from_secs(10), clients: CLIENTS };
        let report = run(cluster_options("storm"), &storm).await?;
        note!("storm: {}", told(seed, &report));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute for each storm; see the file's head"]
async fn many_storms() -> Result<()> {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (storms, seconds) = (number("OMMA_STORMS", 5), number("OMMA_STORM_SECONDS", 50));
    let first = seed("many_storms");
    let path = target_folder()?.join("storms.jsonl");
    let mut failed = Vec::new();
    for seed in (0..storms).map(|i| first.wrapping_add(i)) {
        let storm = StormOptions { seed, lasts: Duration::from_secs(seconds), clients: CLIENTS };
        let line = match run(cluster_options("many_storms"), &storm).await {
            Ok(report) => told(seed, &report),
            Err(error) => {
                note!("storm FAILED: {error:#}");
                failed.push(seed);
                json!({ "seed": seed, "error": format!("{error:#}") })
            }
        };
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(file, "{line}").with_context(|| path.display().to_string())?;
        note!("storm: {line}");
    }
    anyhow::ensure!(failed.is_empty(), "seeds {failed:?} failed");
    Ok(())
}
