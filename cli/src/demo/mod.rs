//! `omma demo`: a real cluster on this machine, pictures in, altered copies found, a node killed, nothing lost.

mod child;
mod cluster;
mod outage;
mod probe;
mod searching;
mod sheet;
mod transforms;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use omma_common::shutdown::Shutdown;
use serde_json::{Value, json};

use crate::commands::Context;
use crate::commands::serve::EncoderArgs;
use crate::exit::CliError;
use crate::indexing::attributes::Given;
use crate::indexing::{Found, Report, index, list};
use crate::samples::{Samples, samples};
use crate::text::{count, duration};
use crate::{progress, runtime_library};
use cluster::{Cluster, GROUPS, NODES, is_ready};
use outage::{Outage, outage};
use searching::{Searched, search_copies};
use sheet::{Sheet, render};

const COLLECTION: &str = "photos";
/// Until a cluster that was just started answers. Opening a model takes most of it.
const START_BOUND: Duration = Duration::from_secs(120);
/// One picture of so many is kept for the time of the outage.
const HELD_BACK: usize = 5;

/// Starts a coordinator and three shard nodes on loopback, puts pictures in, searches with altered copies of them,
/// kills a node with SIGKILL and says what it saw.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Pictures to use. Left out: a sample from npm or PyPI, else pictures that Omma draws.
    folder: Option<PathBuf>,
    /// Keep the cluster's data and logs in this folder. Left out: a temporary one.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the contact sheet goes.
    #[arg(long, value_name = "FILE", default_value = "omma-demo.html")]
    sheet: PathBuf,
    /// Use no network: without FOLDER, draw pictures.
    #[arg(long)]
    offline: bool,
    #[command(flatten)]
    encoder: EncoderArgs,
}

pub(crate) async fn run(context: &Context, args: DemoArgs) -> Result<(), CliError> {
    // Whichever way the story ends, dropping it kills the processes and then removes the temporary folder.
    tokio::select! {
        outcome = story(context, args) => outcome,
        () = Shutdown::on_signals().begun() => Err(CliError::Interrupted),
    }
}

async fn story(context: &Context, args: DemoArgs) -> Result<(), CliError> {
    let output = context.output;
    let temporary = tempfile::Builder::new()
        .prefix("omma-demo-")
        .tempdir()
        .map_err(|source| CliError::Io { what: "make a temporary folder".into(), source })?;
    let data = args.data.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&data).map_err(CliError::writing(&data))?;

    let (found, folder_story) = pictures(&args, temporary.path()).await?;
    output.say(format!("{}: {folder_story}.", count(found.len() as u64, "picture", "pictures")))?;
    let library = runtime_library::locate(args.encoder.onnxruntime.clone()).await?;
    let mut cluster = Cluster::start(&data, &args.encoder, library, context.global.timeout)?;
    let (status, started) = cluster.wait_until("the cluster is ready", START_BOUND, is_ready).await?;
    let encoder = status.nodes.first().and_then(|node| node.encoder.clone()).unwrap_or_default();
    output.say(format!(
        "Started 1 coordinator ({}) and {NODES} shard nodes with {GROUPS} shard groups, replication 3: ready in {}. \
         Encoder: {} on {}.",
        cluster.endpoint,
        duration(started),
        encoder.model,
        encoder.device
    ))?;

    let (stored, held_back) = hold_back(found);
    let report = ingest(&cluster, stored.clone()).await?;
    output.say(ingested(&report))?;
    let refused: Vec<&str> = report.tally.failures.iter().map(|f| f.id.as_str()).collect();
    let stored: Vec<Found> = stored.into_iter().filter(|f| !refused.contains(&f.id.as_str())).collect();
    let known =
        stored.first().cloned().ok_or_else(|| CliError::Failed("none of the pictures could be stored".into()))?;

    let searched = search_copies(&cluster.omma, COLLECTION, &stored, output).await?;
    let verdict = format!("{} of {} altered copies were found at rank 1.", searched.first, searched.rows.len());
    output.say(format!("\n{verdict}"))?;
    let outage = outage(&mut cluster, COLLECTION, &known, held_back, output).await?;

    let sheet = write_sheet(&args.sheet, &report, &verdict, &searched, &outage)?;
    drop(cluster);
    let summary = || summary(&report, &searched, &outage, &sheet);
    output.result(summary, || format!("\nContact sheet: {}", sheet.display()))
}

/// The pictures and what they are.
async fn pictures(args: &DemoArgs, scratch: &Path) -> Result<(Vec<Found>, String), CliError> {
    let (given, scratch, offline) = (args.folder.clone(), scratch.to_owned(), args.offline);
    let looking = tokio::task::spawn_blocking(move || {
        let (folder, story) = match given {
            Some(folder) => (folder.clone(), format!("from {}", folder.display())),
            None => {
                let Samples { folder, story } = samples(&scratch, offline)?;
                (folder, story)
            }
        };
        let files = list(&folder).files;
        if files.is_empty() {
            Err(CliError::Usage(format!("{} holds no pictures", folder.display())))
        } else {
            Ok((files, story))
        }
    });
    looking.await.map_err(|_| CliError::Failed("looking for pictures was interrupted".into()))?
}

/// Splits off every so-many-th picture.
fn hold_back(found: Vec<Found>) -> (Vec<Found>, Vec<Found>) {
    let (mut now, mut later) = (Vec::new(), Vec::new());
    for (i, file) in found.into_iter().enumerate() {
        if i % HELD_BACK == HELD_BACK - 1 { later.push(file) } else { now.push(file) }
    }
    (now, later)
}

async fn ingest(cluster: &Cluster, files: Vec<Found>) -> Result<Report, CliError> {
    cluster.omma.create_collection(COLLECTION, None).await?;
    let bar = progress::bar(files.len() as u64, "ingest");
    let mut report = index(&cluster.omma, COLLECTION, files, &Given::new(), &bar).await;
    bar.finish_and_clear();
    match report.broken.take() {
        Some(error) => Err(error.into()),
        None => Ok(report),
    }
}

fn ingested(report: &Report) -> String {
    let tally = &report.tally;
    let seconds = report.took.as_secs_f64().max(1e-6);
    let mut text = format!(
        "Ingested {} in {}: {:.1} images/s, {:.1} MB/s. Each is on disk on at least two nodes, and found from now on.",
        count(tally.stored(), "image", "images"),
        duration(report.took),
        tally.stored() as f64 / seconds,
        tally.bytes_sent as f64 / 1e6 / seconds,
    );
    for failure in &tally.failures {
        text.push_str(&format!("\nRefused: {}: {}", failure.id, failure.reason));
    }
    text
}

fn write_sheet(
    path: &Path,
    report: &Report,
    verdict: &str,
    searched: &Searched,
    outage: &Outage,
) -> Result<PathBuf, CliError> {
    let mut facts = vec![ingested(report), verdict.to_owned()];
    facts.extend(outage.facts.iter().cloned());
    let html = render(&Sheet { rows: searched.rows.clone(), facts });
    std::fs::write(path, html).map_err(CliError::writing(path))?;
    path.canonicalize().map_err(CliError::writing(path))
}

fn summary(report: &Report, searched: &Searched, outage: &Outage, sheet: &Path) -> Value {
    json!({
        "ingest": {
            "images": report.tally.stored(),
            "bytes": report.tally.bytes_sent,
            "seconds": report.took.as_secs_f64(),
            "failed": report.tally.failures.iter().map(|f| json!({ "id": f.id, "reason": f.reason })).collect::<Vec<_>>(),
        },
        "searches": searched.json,
        "outage": outage.json,
        "facts": outage.facts,
        "contact_sheet": sheet.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifth_is_held_back() {
        let files = |n: usize| (0..n).map(|i| Found { id: i.to_string(), path: PathBuf::new() }).collect();
        let (now, later) = hold_back(files(153));
        assert_eq!((now.len(), later.len()), (123, 30));
        let (now, later) = hold_back(files(1));
        assert_eq!((now.len(), later.len()), (1, 0));
    }
}
