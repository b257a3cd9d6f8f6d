//! `omma keys …`

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use omma_coordinator::access::Role;
use omma_coordinator::access::keys::new_key;
use serde_json::json;

use super::Context;
use crate::exit::CliError;

const DAY: u64 = 86_400;

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// Make a key: shows it once, and the line that goes into the file of --api-keys
    New(NewArgs),
}

#[derive(Debug, Args)]
pub(crate) struct NewArgs {
    /// Whose it is, for the audit log: 1 to 64 of a-z, 0-9, '-', '_'.
    id: String,
    /// What it may do: read, write, admin; none includes another.
    #[arg(long, value_name = "ROLE,…", value_delimiter = ',', required = true)]
    roles: Vec<Role>,
    /// In which collections: names, or * for all.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', required = true)]
    collections: Vec<String>,
    /// After so many days it is no longer good. Left out: it does not expire.
    #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=36_500))]
    days: Option<u64>,
}

pub(crate) fn run(context: &Context, command: KeysCommand) -> Result<(), CliError> {
    let KeysCommand::New(args) = command;
    let expires = args.days.map(|days| SystemTime::now() + Duration::from_secs(days * DAY));
    let made =
        new_key(&args.id, &args.roles, &args.collections, expires).map_err(|e| CliError::Usage(e.to_string()))?;
    context.output.result(
        || json!({ "key": made.key, "line": made.line }),
        || {
            format!(
                "The key, for its owner only; it cannot be shown again:\n  {}\n\nThe line for the file of --api-keys, which a running coordinator reads by itself:\n  {}",
                made.key, made.line
            )
        },
    )
}
