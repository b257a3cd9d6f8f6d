//! A folder of pictures into a collection: find, read and digest, leave out what is stored already, send the rest.

pub(crate) mod attributes;
mod feed;
mod found;
mod plan;
mod tally;

use std::sync::Mutex;

use futures::StreamExt;
use indicatif::ProgressBar;
use omma_client::{ClientError, IngestOptions, Ingested, Omma};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use attributes::Given;
pub(crate) use found::{Found, Listing, list};
pub(crate) use tally::Tally;

/// Pictures that wait between reading and sending, beside those that the ingest holds.
const QUEUE: usize = 4;

/// What an indexing run did. `broken` if it had to stop before all files were tried.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) tally: Tally,
    pub(crate) took: std::time::Duration,
    pub(crate) broken: Option<ClientError>,
}

/// Sends those of `files` that the collection does not hold already, with the attributes that are given for them.
/// Failures of single files are in the report.
pub(crate) async fn index(
    omma: &Omma,
    collection: &str,
    files: Vec<Found>,
    given: &Given,
    progress: &ProgressBar,
) -> Report {
    let started = Instant::now();
    let tally = Mutex::new(Tally::default());
    let (sender, receiver) = mpsc::channel(QUEUE);
    let options = IngestOptions { patience: std::time::Duration::from_secs(60), ..IngestOptions::default() };
    let mut outcomes = omma.ingest(collection, ReceiverStream::new(receiver), options);

    let feeding = feed::feed(omma, collection, files, given, sender, &tally, progress);
    let collecting = async {
        while let Some(outcome) = outcomes.next().await {
            let Ingested { id, result, .. } = outcome?;
            tally::lock(&tally).answered(id, result);
            progress.inc(1);
        }
        Ok::<(), ClientError>(())
    };
    let broken = tokio::try_join!(feeding, collecting).err();
    let tally = tally.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    Report { tally, took: started.elapsed(), broken }
}
