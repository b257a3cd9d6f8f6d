//! `omma-coordinator`: serves the public API.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use omma_common::admin::{Admin, Vitals};
use omma_common::shutdown::Shutdown;
use omma_common::telemetry::TelemetryArgs;
use omma_coordinator::CoordinatorConfig;
use tokio::net::TcpListener;

/// Omma's coordinator: serves the public API on top of a cluster of shard nodes.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    args: omma_coordinator::Args,
    /// Where to serve metrics and probes over HTTP; off for nowhere. Port 0 takes a free port.
    #[arg(long, env = "OMMA_ADMIN_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:7710")]
    admin_listen: String,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    match serve(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("omma-coordinator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(cli: Cli) -> Result<(), Box<dyn std::error::Error>> {
    let _telemetry = cli.telemetry.init("omma-coordinator")?;
    let shutdown = Shutdown::on_signals();
    let vitals = Vitals::default();
    let _admin = Admin::serve(&cli.admin_listen, vec![vitals.clone()]).await?;
    let listen = &cli.args.listen;
    let listener = TcpListener::bind(listen).await.map_err(|e| format!("cannot listen on {listen}: {e}"))?;
    // The one line on standard output: whoever started us with port 0 reads the port from it.
    println!("omma-coordinator listening on {}", listener.local_addr()?);
    let config = CoordinatorConfig { vitals, ..cli.args.config() };
    Ok(omma_coordinator::run(listener, config, shutdown).await?)
}
