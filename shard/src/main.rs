//! `omma-shard`: a shard node.

#![forbid(unsafe_code)]

use clap::Parser;
use omma_common::shutdown::Shutdown;
use omma_common::telemetry::{self, TelemetryConfig};
use omma_shard::ShardArgs;

/// Runs a shard node of Omma: owns data, replicates it, searches it, and turns pictures into embeddings.
#[derive(Parser)]
#[command(name = "omma-shard", version)]
struct Args {
    #[command(flatten)]
    shard: ShardArgs,
    /// What to log, such as info or omma_shard=debug.
    #[arg(long, env = "OMMA_LOG", default_value = telemetry::DEFAULT_FILTER)]
    log: String,
    /// Log JSON, one object a line.
    #[arg(long, env = "OMMA_LOG_JSON")]
    log_json: bool,
    /// Send traces to this OTLP/gRPC endpoint.
    #[arg(long, env = "OMMA_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
}

#[tokio::main]
async fn main() -> std::process::ExitCode {
    match run(Args::parse()).await {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("omma-shard: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let _telemetry = telemetry::init(&TelemetryConfig {
        service: "omma-shard",
        filter: args.log,
        json: args.log_json,
        otlp_endpoint: args.otlp_endpoint,
    })?;
    let listener = tokio::net::TcpListener::bind(&args.shard.listen)
        .await
        .map_err(|e| format!("cannot listen on {}: {e}", args.shard.listen))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    omma_shard::run(listener, args.shard.config(), Shutdown::on_signals()).await?;
    Ok(())
}
