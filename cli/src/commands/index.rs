//! `omma index`

use std::path::PathBuf;

use clap::Args;
use omma_client::Omma;
use omma_common::error::Reason;
use serde_json::json;

use super::Context;
use crate::args::InCollection;
use crate::exit::CliError;
use crate::indexing::attributes::{self, Given};
use crate::indexing::{Listing, Report, index, list};
use crate::json;
use crate::output::{Output, note};
use crate::progress;
use crate::text::{count, duration, thousands};

/// Failed files named for people; --json names all.
const NAMED_FAILURES: usize = 20;

/// Files whose bytes are stored already are not sent again: run it again after anything went wrong.
#[derive(Debug, Args)]
#[command(after_long_help = attributes::FORMAT)]
pub(crate) struct IndexArgs {
    /// Searched through with all folders in it; hidden ones are left out. A file's path in it becomes the id.
    folder: PathBuf,
    #[command(flatten)]
    within: InCollection,
    /// Attributes of the pictures: a .csv or .jsonl file, see below.
    #[arg(long, value_name = "FILE")]
    attributes: Option<PathBuf>,
    /// Exit with 0 although some files failed.
    #[arg(long)]
    keep_going: bool,
}

pub(crate) async fn run(context: &Context, args: IndexArgs) -> Result<(), CliError> {
    let folder = args.folder.clone();
    if !folder.is_dir() {
        return Err(CliError::Usage(format!("{} is no folder", folder.display())));
    }
    let given = match args.attributes {
        Some(path) => {
            blocking("reading the attributes", move || attributes::read(&path)).await?.map_err(CliError::Usage)?
        }
        None => Given::new(),
    };
    let omma = context.connect().await?;
    ensure_collection(&omma, &args.within.collection, context.output).await?;
    let Listing { files, failures, skipped } = blocking("listing the folder", move || list(&folder)).await?;
    let without_picture = given.len() - files.iter().filter(|file| given.contains_key(&file.id)).count();
    if without_picture > 0 {
        note(format!("omma: {without_picture} of {} ids with attributes name no picture of the folder", given.len()));
    }
    let bar = progress::bar(files.len() as u64, "index");
    let mut report = index(&omma, &args.within.collection, files, &given, &bar).await;
    bar.finish_and_clear();
    report.tally.failures.splice(0..0, failures);

    show(context.output, &args.within.collection, &report, skipped)?;
    let failed = report.tally.failures.len();
    match report.broken {
        Some(error) => Err(error.into()),
        None if failed > 0 && !args.keep_going => Err(CliError::Some(failed)),
        None => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> Result<T, CliError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| CliError::Failed(format!("{what} was interrupted")))
}

/// Creates the collection, in the vector space of the cluster's encoder, if it is missing.
pub(crate) async fn ensure_collection(omma: &Omma, name: &str, output: Output) -> Result<(), CliError> {
    let missing = match omma.get_collection(name).await {
        Ok(_) => return Ok(()),
        Err(error) if error.reason() == Some(Reason::CollectionNotFound) => error,
        Err(error) => return Err(error.into()),
    };
    match omma.create_collection(name, None).await {
        Ok(_) => output.say(format!("Created the collection {name}.")),
        // Somebody else was faster.
        Err(error) if error.reason() == Some(Reason::CollectionExists) => Ok(()),
        Err(error) => {
            note(format!("omma: {missing}"));
            Err(error.into())
        }
    }
}

fn show(output: Output, collection: &str, report: &Report, skipped: u64) -> Result<(), CliError> {
    let tally = &report.tally;
    let seconds = report.took.as_secs_f64().max(1e-6);
    let images_per_second = tally.stored() as f64 / seconds;
    let megabytes_per_second = tally.bytes_sent as f64 / 1e6 / seconds;
    let failures = || tally.failures.iter().map(|f| json!({ "id": f.id, "reason": f.reason })).collect::<Vec<_>>();
    output.result(
        || {
            json!({
                "collection": collection,
                "created": tally.created,
                "replaced": tally.replaced,
                "unchanged": tally.unchanged,
                "failed": failures(),
                "no_pictures": skipped,
                "bytes_sent": tally.bytes_sent,
                "seconds": seconds,
                "images_per_second": images_per_second,
                "megabytes_per_second": megabytes_per_second,
                "error": report.broken.as_ref().map(json::error),
            })
        },
        || {
            let mut out = String::new();
            for failure in tally.failures.iter().take(NAMED_FAILURES) {
                out.push_str(&format!("failed: {}: {}\n", failure.id, failure.reason));
            }
            if let Some(more) = tally.failures.len().checked_sub(NAMED_FAILURES).filter(|n| *n > 0) {
                out.push_str(&format!("… and {more} more (--json names all)\n"));
            }
            out.push_str(&format!(
                "{} sent to {collection} ({} of them replaced), {} unchanged, {} failed, {} skipped as no pictures, in {}: \
                 {images_per_second:.1} images/s, {megabytes_per_second:.1} MB/s.",
                count(tally.stored(), "image", "images"),
                thousands(tally.replaced),
                thousands(tally.unchanged),
                tally.failures.len(),
                count(skipped, "file", "files"),
                duration(report.took),
            ));
            out
        },
    )
}
