//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::commands::{bench, certs, cluster, collection, delete, get, index, keys, search, serve};
use crate::exit::EXIT_CODES;
use crate::{backup, demo};

/// Omma finds the pictures that look most like a picture.
///
/// `omma serve` starts it on this machine; `omma demo` shows what a cluster of it does.
#[derive(Debug, Parser)]
#[command(name = "omma", version, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Before or after the command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// The coordinator to ask.
    #[arg(long, global = true, value_name = "URL", env = "OMMA_ENDPOINT", default_value = DEFAULT_ENDPOINT)]
    pub(crate) endpoint: String,
    /// Certificate authorities to believe of an https endpoint, as PEM; those of the system if left out.
    #[arg(long, global = true, value_name = "FILE", env = "OMMA_CA")]
    pub(crate) ca: Option<PathBuf>,
    /// An API key, or a token. The environment is the better place for it: others can see command lines.
    #[arg(long, global = true, value_name = "KEY", env = "OMMA_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Option<String>,
    /// Results as JSON on standard output.
    ///
    /// Field names are those of the protocol. Node ids are strings, digests hexadecimal, durations seconds.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Deadline of each request, its retries among it.
    #[arg(long, global = true, value_name = "DURATION", default_value = "30s", value_parser = parse_timeout)]
    pub(crate) timeout: Duration,
}

/// Where `omma serve` listens and all other commands ask.
pub(crate) const DEFAULT_ENDPOINT: &str = "http://127.0.0.1:7700";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run Omma on this machine: everything in one process, durable in one folder
    Serve(Box<serve::ServeArgs>),
    /// Show what a cluster does: ingest, search, kill a node, go on
    Demo(demo::DemoArgs),
    /// Put all pictures of a folder into a collection
    Index(index::IndexArgs),
    /// Find the images that look most like a picture
    Search(search::SearchArgs),
    /// Show stored images
    Get(get::GetArgs),
    /// Delete images
    Delete(delete::DeleteArgs),
    /// Copy a collection into a folder or an object store
    Backup(backup::BackupArgs),
    /// Copy a backup into a cluster
    Restore(backup::RestoreArgs),
    /// Show nodes, groups, leaders and whether replicas agree
    Status,
    /// Drain nodes, and show and pause what moves between them
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// Create, show, list and delete collections
    #[command(subcommand)]
    Collection(collection::CollectionCommand),
    /// Measure a cluster: how fast it stores and searches, and how much of the exact answer it finds
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Make API keys
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Make a certificate authority and certificates for a cluster
    Certs(certs::CertsArgs),
    /// Print where the ONNX Runtime library is, got from its Python package if it is not there yet
    RuntimeLibrary,
    /// Run one shard node in the foreground, with the flags of omma-shard
    #[command(disable_help_flag = true)]
    Shard(Forwarded),
    /// Run one coordinator in the foreground, with the flags of omma-coordinator
    #[command(disable_help_flag = true)]
    Coordinator(Forwarded),
}

/// Flags that a server reads itself.
#[derive(Debug, Args)]
pub(crate) struct Forwarded {
    /// The server's own flags; --help lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub(crate) flags: Vec<OsString>,
}

/// Which collection.
#[derive(Debug, Clone, Args)]
pub(crate) struct InCollection {
    /// The collection.
    #[arg(long, short, value_name = "NAME", env = "OMMA_COLLECTION", default_value = "photos")]
    pub(crate) collection: String,
}

fn parse_timeout(text: &str) -> Result<Duration, String> {
    let timeout = humantime::parse_duration(text).map_err(|e| format!("{e}; write 500ms, 30s, 2min"))?;
    if timeout.is_zero() { Err("must be longer than nothing".into()) } else { Ok(timeout) }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_anywhere() {
        let cli = Cli::parse_from(["omma", "status", "--json", "--endpoint", "http://x:1", "--timeout", "2s"]);
        assert!(cli.global.json && matches!(cli.command, Command::Status));
        assert_eq!((cli.global.endpoint.as_str(), cli.global.timeout), ("http://x:1", Duration::from_secs(2)));
        assert!(Cli::try_parse_from(["omma", "--timeout", "0s", "status"]).is_err());
    }

    #[test]
    fn a_search_is_for_exactly_one_thing() {
        for ok in [&["omma", "search", "a.jpg"][..], &["omma", "search", "--id", "a"]] {
            assert!(Cli::try_parse_from(ok).is_ok(), "{ok:?}");
        }
        for bad in [
            &["omma", "search"][..],
            &["omma", "search", "a.jpg", "--id", "a"],
            &["omma", "search", "a.jpg", "-k", "0"],
            &["omma", "search", "a.jpg", "-k", "1001"],
            &["omma", "search", "a.jpg", "--min-score", "1.5"],
            &["omma", "search", "a.jpg", "--consistency", "strong"],
        ] {
            assert!(Cli::try_parse_from(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn servers_read_their_own_flags() {
        let cli = Cli::parse_from(["omma", "shard", "--data", "x", "--help"]);
        let Command::Shard(forwarded) = cli.command else { panic!("not a shard") };
        assert_eq!(forwarded.flags, ["--data", "x", "--help"]);
    }
}
