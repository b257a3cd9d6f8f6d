//! `omma bench …`

use clap::Subcommand;

use super::Context;
use crate::bench::{ingest, search, write};
use crate::exit::CliError;

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Put vectors or pictures into a collection
    Ingest(Box<ingest::IngestArgs>),
    /// Search for vectors or pictures, and compare the answers with exact search
    Search(Box<search::SearchArgs>),
    /// Write the vectors into files, for other programs
    Write(write::WriteArgs),
}

pub(crate) async fn run(context: &Context, command: BenchCommand) -> Result<(), CliError> {
    match command {
        BenchCommand::Ingest(args) => ingest::run(context, *args).await,
        BenchCommand::Search(args) => search::run(context, *args).await,
        BenchCommand::Write(args) => write::run(context, args).await,
    }
}
