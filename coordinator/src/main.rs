//! `omma-coordinator`: serves the public API.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use omma_common::shutdown::Shutdown;
use omma_common::telemetry::{self, TelemetryConfig};
use tokio::net::TcpListener;

/// Omma's coordinator: serves the public API on top of a cluster of shard nodes.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    args: omma_coordinator::Args,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Cli::parse().args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("omma-coordinator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: omma_coordinator::Args) -> Result<(), Box<dyn std::error::Error>> {
    let _telemetry = telemetry::init(&TelemetryConfig {
        service: "omma-coordinator",
        filter: args.log.clone(),
        json: args.log_json,
        otlp_endpoint: args.otlp_endpoint.clone(),
    })?;
    let shutdown = Shutdown::on_signals();
    let listener =
        TcpListener::bind(&args.listen).await.map_err(|e| format!("cannot listen on {}: {e}", args.listen))?;
    // The one line on standard output: whoever started us with port 0 reads the port from it.
    println!("omma-coordinator listening on {}", listener.local_addr()?);
    Ok(omma_coordinator::run(listener, args.config(), shutdown).await?)
}
