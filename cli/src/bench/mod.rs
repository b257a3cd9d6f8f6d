//! A load generator: puts vectors or pictures into a cluster and searches them, and says how fast and how good that was.
//!
//! What is measured is what a client sees: the clocks run around whole calls. Exact answers are computed here, from what
//! was sent, so that the cluster does not judge itself.

mod args;
mod data;
mod drive;
mod fvecs;
mod generate;
pub(crate) mod ingest;
mod matrix;
mod npy;
mod report;
mod schedule;
pub(crate) mod search;
mod servers;
mod tally;
mod truth;
pub(crate) mod write;

use omma_common::metrics::taken;

use crate::commands::Context;
use crate::exit::CliError;

/// Prints a report. Requests that failed are a failure of the command, after that.
fn show(context: &Context, report: &report::Report) -> Result<(), CliError> {
    context.output.result(|| report.json(), || report.human())?;
    match report.run.tally.error_count() {
        0 => Ok(()),
        n => Err(CliError::Some(n as usize)),
    }
}

/// CPU time of this process; `None` where it cannot be known.
fn own_cpu_seconds() -> Option<f64> {
    taken(std::process::id()).ok().map(|taken| taken.cpu_seconds)
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CliError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|_| CliError::Failed("reading or comparing vectors was interrupted".into()))
}
