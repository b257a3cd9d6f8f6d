//! Broken, hostile and odd files: each costs one error or is stored; the node goes on, in bounded memory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use omma_common::error::Reason;
use omma_integration_tests::client::{Client, picture_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::shared_data;
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, jpeg};
use omma_integration_tests::refusal::Refusal;
use omma_proto::v1::query::Target;

const COLLECTION: &str = "hostile";
/// For one file. The longest is printed.
const MOST_TIME: Duration = Duration::from_secs(1);
/// Peak resident memory of the shard node.
const MOST_MEMORY: u64 = 2 << 30;
/// Valid pictures in formats that Omma does not take.
const OTHER_FORMATS: [&str; 1] = ["avif"];

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_file_costs_at_most_one_error() -> Result<()> {
    let Some(folder) = shared_data("malformed") else { return Ok(()) };
    let files = files(&folder)?;
    ensure!(files.len() > 100, "only {} files in {}", files.len(), folder.display());
    let valid = valid_files(&folder)?;
    ensure!(!valid.is_empty(), "no valid file in the manifest");
    let cluster = Cluster::start(ClusterOptions::single("hostile")).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, None).await?;

    let stop = AtomicBool::new(false);
    let all = async {
        let outcome = send_all(&client, &folder, &files, &valid).await;
        stop.store(true, Ordering::Relaxed);
        outcome
    };
    let (report, beside) = tokio::join!(all, good_puts(&client, &stop));
    let (report, (puts, slowest)) = (report?, beside?);
    note!("{report:#?}");
    note!("good pictures beside them: {puts}, the slowest took {slowest:.2?}");

    let memory = cluster.shard_process(0)?.memory()?;
    note!("resident memory of the shard node: {} MiB, at its peak {} MiB", memory.now >> 20, memory.peak >> 20);
    ensure!(memory.peak < MOST_MEMORY, "{memory:?}");
    ensure!(cluster.shard_process(0)?.ended().is_none(), "the shard node ended");
    // It still serves.
    let picture = jpeg(&draw(999, 200, 200), 90)?;
    client.store(COLLECTION, vec![picture_image("after", picture.clone())], MOST_TIME).await?;
    let found = client.search(COLLECTION, Target::Picture(picture), 1).await?;
    ensure!(found.hits.first().is_some_and(|h| h.id == "after"), "{found:?}");
    Ok(())
}

#[derive(Debug, Default)]
struct Report {
    stored: u32,
    refused: u32,
    longest: Duration,
    longest_file: String,
}

async fn send_all(client: &Client, folder: &Path, files: &[PathBuf], valid: &[String]) -> Result<Report> {
    let mut report = Report::default();
    for path in files {
        let name = path.strip_prefix(folder)?.display().to_string();
        let bytes = std::fs::read(path)?.into();
        let begin = Instant::now();
        let answer = client.put(COLLECTION, vec![picture_image(&name, bytes)]).await;
        let took = begin.elapsed();
        let refusal = match answer {
            Ok(answer) => {
                let result = answer.results.first().with_context(|| format!("{name}: no result"))?;
                let failed = result.error.as_ref().filter(|e| e.code != 0);
                failed.map(|e| Refusal::of_part(Some(e))).transpose().with_context(|| name.clone())?
            }
            Err(status) => Some(Refusal::of(&status).with_context(|| name.clone())?),
        };
        match refusal {
            None => report.stored += 1,
            Some(refusal) => {
                report.refused += 1;
                must_be_the_pictures_fault(&name, &refusal, valid)?;
            }
        }
        ensure!(took < MOST_TIME, "{name} took {took:?}");
        if took > report.longest {
            (report.longest, report.longest_file) = (took, name);
        }
    }
    Ok(report)
}

fn must_be_the_pictures_fault(name: &str, refusal: &Refusal, valid: &[String]) -> Result<()> {
    let reasons = [Reason::InvalidPicture, Reason::UnsupportedPicture, Reason::PictureTooLarge];
    let Some(reason) = reasons.into_iter().find(|r| r.name() == refusal.reason) else {
        bail!("{name}: {refusal:?}");
    };
    refusal.is(reason, "").with_context(|| name.to_owned())?;
    let other_format = OTHER_FORMATS.iter().any(|f| name.ends_with(f)) && reason == Reason::UnsupportedPicture;
    ensure!(other_format || !valid.iter().any(|v| v == name), "{name} is a valid picture: {refusal:?}");
    Ok(())
}

/// Puts good pictures until told to stop: none may fail.
async fn good_puts(client: &Client, stop: &AtomicBool) -> Result<(u64, Duration)> {
    let (mut n, mut slowest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let picture = jpeg(&draw(n, 200, 200), 90)?;
        let answer = client.put(COLLECTION, vec![picture_image(&format!("good-{n}"), picture)]).await?;
        ensure!(answer.results.iter().all(|r| r.error.as_ref().is_none_or(|e| e.code == 0)), "{answer:?}");
        (n, slowest) = (n + 1, slowest.max(begin.elapsed()));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok((n, slowest))
}

/// All files below `folder`, sorted, but for the manifest.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.file_name().is_some_and(|n| n != "manifest.csv") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Files that the manifest says must be accepted: path,origin,bytes,sha256,note,… with a note that begins with VALID.
fn valid_files(folder: &Path) -> Result<Vec<String>> {
    let manifest = std::fs::read_to_string(folder.join("manifest.csv"))?;
    let valid = manifest.lines().skip(1).filter_map(|line| {
        let mut columns = line.split(',');
        let (path, note) = (columns.next()?, columns.nth(3)?);
        note.trim_start_matches('"').starts_with("VALID").then(|| path.to_owned())
    });
    Ok(valid.collect())
}
