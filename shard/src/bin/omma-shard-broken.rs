//! `omma-shard-broken`: a shard node that breaks the promise that `OMMA_BROKEN` names. For tests of the tests only.

#![forbid(unsafe_code)]

use clap::Parser;
use omma_common::shutdown::Shutdown;
use omma_common::telemetry::{self, TelemetryConfig};
use omma_shard::ShardArgs;

/// A shard node that is broken on purpose.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    shard: ShardArgs,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args = Args::parse();
    let _telemetry = telemetry::init(&TelemetryConfig {
        service: "omma-shard-broken",
        filter: "info".to_owned(),
        json: false,
        otlp_endpoint: None,
    })?;
    tracing::error!(broken = std::env::var("OMMA_BROKEN").ok(), "this node breaks a promise on purpose");
    let listener = tokio::net::TcpListener::bind(&args.shard.listen).await?;
    omma_shard::run(listener, args.shard.config(), Shutdown::on_signals()).await?;
    Ok(())
}
