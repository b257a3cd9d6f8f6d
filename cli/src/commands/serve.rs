//! `omma serve`: a coordinator and a shard node in one process, durable in one folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use omma_client::Omma;
use omma_common::shutdown::{self, Shutdown};
use omma_common::telemetry::DEFAULT_FILTER;
use tokio::time::Instant;

use super::Context;
use crate::exit::CliError;
use crate::output::{Output, note};
use crate::processes::{ShardSettings, coordinator_flags, run_coordinator, run_shard, telemetry};
use crate::runtime_library;

/// How long a start may take before something is said about it. It goes on.
const SLOW_START: Duration = Duration::from_secs(30);

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Everything that Omma stores is in this folder; it is made if it is missing.
    #[arg(long, value_name = "DIR", env = "OMMA_DATA", default_value = "omma-data")]
    data: PathBuf,
    /// Where to answer clients.
    #[arg(long, value_name = "HOST:PORT", env = "OMMA_LISTEN", default_value = "127.0.0.1:7700")]
    listen: String,
    /// Where the shard node inside listens; the coordinator beside it asks it there. Keep it from start to start.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7701")]
    shard_listen: String,
    /// Shard groups; decided by the first start.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    groups: u32,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// What to log, as a tracing filter.
    #[arg(long, value_name = "FILTER", env = "OMMA_LOG", default_value = DEFAULT_FILTER)]
    log: String,
}

/// What turns pictures into embeddings.
#[derive(Debug, Clone, Args)]
pub(crate) struct EncoderArgs {
    /// A model folder in Hugging Face's ONNX layout. Left out: the model that is built in.
    #[arg(long, value_name = "DIR", env = "OMMA_MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Where the model runs: auto, cpu, cuda:N.
    #[arg(long, default_value = "auto")]
    pub(crate) device: String,
    /// The ONNX Runtime library. Left out: OMMA_ONNXRUNTIME, else one that is got from PyPI and kept.
    #[arg(long, value_name = "FILE")]
    pub(crate) onnxruntime: Option<PathBuf>,
}

pub(crate) async fn run(context: &Context, args: ServeArgs) -> Result<(), CliError> {
    let otlp = std::env::var("OTEL_EXPORTER_OTLP_ENDPOINT").ok().filter(|endpoint| !endpoint.is_empty());
    let _telemetry = telemetry("omma", &args.log, context.global.json, otlp)?;
    std::fs::create_dir_all(&args.data).map_err(CliError::writing(&args.data))?;
    let shard = ShardSettings {
        data: args.data.clone(),
        address: args.shard_listen.clone(),
        peers: vec![args.shard_listen.clone()],
        groups: args.groups,
        replication: 1,
        onnxruntime: runtime_library::locate(args.encoder.onnxruntime).await?,
        model: args.encoder.model,
        device: args.encoder.device,
        log: args.log.clone(),
    };
    let coordinator = coordinator_flags(&args.listen, std::slice::from_ref(&args.shard_listen), &args.log);

    let (stop, stopping) = shutdown::channel();
    let servers = async {
        // Whichever ends first ends the other: half of Omma is of no use.
        let (shard, coordinator) = tokio::join!(
            ending(run_shard(shard.flags(), stopping.clone()), &stop),
            ending(run_coordinator(coordinator, stopping.clone()), &stop),
        );
        shard.and(coordinator)
    };
    let signals = async {
        Shutdown::on_signals().begun().await;
        note("omma: stopping …");
        stop.fire();
        std::future::pending::<()>().await;
    };
    let announcing = async {
        announce(context.output, &args.listen, &args.data).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = servers => result,
        () = signals => Ok(()),
        () = announcing => Ok(()),
    }
}

async fn ending(server: impl Future<Output = Result<(), CliError>>, stop: &shutdown::Trigger) -> Result<(), CliError> {
    let result = server.await;
    stop.fire();
    result
}

/// Says when the cluster answers.
async fn announce(output: Output, listen: &str, data: &Path) {
    let started = Instant::now();
    let mut said_slow = false;
    let Ok(omma) = Omma::builder(listen).retries(0).timeout(Duration::from_secs(2)).connect_lazily() else { return };
    loop {
        if let Ok(status) = omma.status().await
            && status.groups.len() > 1
            && status.groups.iter().all(|group| group.leader_node_id != 0)
        {
            let text = format!("Omma answers at http://{listen}; its data is in {}. Ctrl-C ends it.", data.display());
            // If nobody reads the output, the servers still run.
            let _ = output.say(text);
            return;
        }
        if !said_slow && started.elapsed() > SLOW_START {
            said_slow = true;
            note(format!("omma: not ready after {SLOW_START:?}; the log above may say why"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
