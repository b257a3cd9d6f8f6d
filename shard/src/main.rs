//! `omma-shard`: a shard node.

#![forbid(unsafe_code)]

use clap::Parser;
use omma_common::admin::{Admin, Vitals};
use omma_common::shutdown::Shutdown;
use omma_common::telemetry::TelemetryArgs;
use omma_shard::ShardArgs;

/// Runs a shard node of Omma: owns data, replicates it, searches it, and turns pictures into embeddings.
#[derive(Parser)]
#[command(name = "omma-shard", version)]
struct Args {
    #[command(flatten)]
    shard: ShardArgs,
    /// Where to serve metrics and probes over HTTP; off for nowhere. Port 0 takes a free port.
    #[arg(long, env = "OMMA_ADMIN_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:7711")]
    admin_listen: String,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Also of `omma-shard-broken`.
pub(crate) fn main() -> std::process::ExitCode {
    let args = Args::parse();
    let outcome = match omma_shard::runtime() {
        Ok(runtime) => {
            let outcome = runtime.block_on(run(args));
            // What blocks on a store that does not close must not hold the process.
            runtime.shutdown_background();
            outcome
        }
        Err(error) => Err(format!("cannot start the runtime: {error}").into()),
    };
    match outcome {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("omma-shard: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let _telemetry = args.telemetry.init("omma-shard")?;
    let shutdown = Shutdown::on_signals();
    let vitals = Vitals::default();
    let _admin = Admin::serve(&args.admin_listen, vec![vitals.clone()]).await?;
    let listener = tokio::net::TcpListener::bind(&args.shard.listen)
        .await
        .map_err(|e| format!("cannot listen on {}: {e}", args.shard.listen))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    let config = omma_shard::ShardConfig { vitals, ..args.shard.config() };
    omma_shard::run(listener, config, shutdown).await?;
    Ok(())
}
