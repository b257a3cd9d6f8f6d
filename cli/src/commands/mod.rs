//! One file per command.

pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod cluster;
pub(crate) mod collection;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod index;
pub(crate) mod keys;
pub(crate) mod search;
pub(crate) mod serve;
mod status;

use omma_client::{Builder, Omma};

use crate::args::{Cli, Command, Global};
use crate::exit::CliError;
use crate::output::Output;
use crate::{backup, demo, processes, runtime_library};

/// What every command is given.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) global: Global,
    pub(crate) output: Output,
}

impl Context {
    /// A connection to the coordinator of the command line.
    pub(crate) async fn connect(&self) -> Result<Omma, CliError> {
        Ok(self.builder().connect().await?)
    }

    /// The settings of such a connection.
    pub(crate) fn builder(&self) -> Builder {
        let mut builder = Omma::builder(&self.global.endpoint).timeout(self.global.timeout);
        if let Some(ca) = &self.global.ca {
            builder = builder.ca(ca);
        }
        if let Some(key) = &self.global.api_key {
            builder = builder.api_key(key);
        }
        builder
    }
}

/// Runs the command that was asked for.
pub(crate) async fn run(cli: Cli) -> Result<(), CliError> {
    let context = Context { output: Output::new(cli.global.json), global: cli.global };
    match cli.command {
        Command::Serve(args) => serve::run(&context, *args).await,
        Command::Demo(args) => demo::run(&context, args).await,
        Command::Index(args) => index::run(&context, args).await,
        Command::Search(args) => search::run(&context, args).await,
        Command::Get(args) => get::run(&context, args).await,
        Command::Bench(command) => bench::run(&context, command).await,
        Command::Delete(args) => delete::run(&context, args).await,
        Command::Backup(args) => backup::run(&context, args).await,
        Command::Restore(args) => backup::run_restore(&context, args).await,
        Command::Status => status::run(&context).await,
        Command::Cluster(command) => cluster::run(&context, command).await,
        Command::Collection(command) => collection::run(&context, command).await,
        Command::Keys(command) => keys::run(&context, command),
        Command::Certs(args) => certs::run(&context, args),
        Command::RuntimeLibrary => runtime_library::run(context.output).await,
        Command::Shard(forwarded) => processes::shard_command(forwarded.flags).await,
        Command::Coordinator(forwarded) => processes::coordinator_command(forwarded.flags).await,
    }
}
