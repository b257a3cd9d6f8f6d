//! `omma`: starts Omma, shows what it does, puts pictures in and finds them again.

#![forbid(unsafe_code)]

mod args;
mod backup;
mod bench;
mod commands;
mod demo;
mod drawing;
mod exit;
mod indexing;
mod json;
mod output;
mod processes;
mod progress;
mod runtime_library;
mod samples;
mod table;
mod text;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let built = match cli.command {
        args::Command::Serve(_) | args::Command::Shard(_) => omma_shard::runtime(),
        _ => tokio::runtime::Builder::new_multi_thread().enable_all().build(),
    };
    let runtime = match built {
        Ok(runtime) => runtime,
        Err(error) => return exit::report(&exit::CliError::Io { what: "start the runtime".into(), source: error }),
    };
    let outcome = runtime.block_on(commands::run(cli));
    // A blocking read that nobody waits for any more must not hold the process.
    runtime.shutdown_background();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}
