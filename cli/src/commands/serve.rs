//! `omma serve`: a coordinator and a shard node in one process, durable in one folder.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use omma_common::admin::{self, Admin, Vitals};
use omma_common::deadline::Deadline;
use omma_common::serve::InProcess;
use omma_common::shutdown::{self, Shutdown};
use omma_common::telemetry::TelemetryArgs;
use omma_common::tls::Dialer;
use omma_common::tls::args::{PeerTlsArgs, PublicTlsArgs, peer_dialer};
use omma_coordinator::AccessArgs;
use omma_proto::internal::v1::GetMetadataRequest;
use omma_proto::internal::v1::metadata_service_client::MetadataServiceClient;
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
    /// Where the shard node inside listens; the coordinator beside it needs no connection. Keep it from start to start.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7701")]
    shard_listen: String,
    /// Shard groups; decided by the first start.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    groups: u32,
    #[command(flatten)]
    security: SecurityArgs,
    #[command(flatten)]
    encoder: EncoderArgs,
    /// Where to serve metrics and probes over HTTP; nowhere if left out. Port 0 takes a free port.
    #[arg(long, value_name = "HOST:PORT", env = "OMMA_ADMIN_LISTEN", default_value = admin::OFF)]
    admin_listen: String,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Who may reach it, and how.
#[derive(Debug, Clone, Args)]
struct SecurityArgs {
    #[command(flatten)]
    public_tls: PublicTlsArgs,
    #[command(flatten)]
    peer_tls: PeerTlsArgs,
    #[command(flatten)]
    access: AccessArgs,
}

impl SecurityArgs {
    /// For the shard node inside.
    fn shard_flags(&self) -> Vec<OsString> {
        let peer = &self.peer_tls;
        let files = [
            ("--peer-tls-cert", &peer.peer_tls_cert),
            ("--peer-tls-key", &peer.peer_tls_key),
            ("--peer-tls-ca", &peer.peer_tls_ca),
        ];
        let mut flags = given(&files);
        flags.extend(peer.insecure_plaintext.then(|| "--insecure-plaintext".into()));
        flags
    }

    /// For the coordinator inside.
    fn coordinator_flags(&self) -> Vec<OsString> {
        let (public, access) = (&self.public_tls, &self.access);
        let mut flags = self.shard_flags();
        flags.extend(given(&[
            ("--tls-cert", &public.tls_cert),
            ("--tls-key", &public.tls_key),
            ("--api-keys", &access.api_keys),
            ("--jwt-jwks", &access.jwt_jwks),
        ]));
        flags.extend(given(&[("--jwt-issuer", &access.jwt_issuer), ("--jwt-audience", &access.jwt_audience)]));
        flags
    }
}

/// Those flags that have a value.
fn given<T: AsRef<OsStr>>(flags: &[(&str, &Option<T>)]) -> Vec<OsString> {
    let given = flags.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
    given.flat_map(|(name, value)| [OsString::from(name), value.as_ref().to_owned()]).collect()
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
    let logging = TelemetryArgs { log_json: args.telemetry.log_json || context.global.json, ..args.telemetry.clone() };
    let _telemetry = telemetry("omma", &logging)?;
    let (of_shard, of_coordinator) = (Vitals::default(), Vitals::default());
    let _admin = Admin::serve(&args.admin_listen, vec![of_shard.clone(), of_coordinator.clone()]).await?;
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
        log: logging.log.clone(),
    };
    let mut coordinator = coordinator_flags(&args.listen, std::slice::from_ref(&args.shard_listen), &logging.log);
    coordinator.extend(args.security.coordinator_flags());
    let mut shard = shard.flags();
    shard.extend(args.security.shard_flags());
    let peers = &args.security.peer_tls;
    let dialer = peer_dialer(peers.files().as_ref(), peers.plaintext(), std::slice::from_ref(&args.shard_listen))
        .map_err(|e| CliError::Usage(e.to_string()))?;

    let (stop, stopping) = shutdown::channel();
    let in_process = InProcess::at(&args.shard_listen);
    let servers = async {
        // Whichever ends first ends the other: half of Omma is of no use.
        let (shard, coordinator) = tokio::join!(
            ending(run_shard(shard, of_shard, Some(in_process.clone()), stopping.clone()), &stop),
            ending(run_coordinator(coordinator, of_coordinator, Some(in_process), stopping.clone()), &stop),
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
        let scheme = if args.security.public_tls.files().is_some() { "https" } else { "http" };
        let text = format!(
            "Omma answers at {scheme}://{}; its data is in {}. Ctrl-C ends it.",
            args.listen,
            args.data.display()
        );
        announce(context.output, &text, &dialer, &args.shard_listen).await;
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

/// Says `text` when the cluster answers. It asks the shard node: that needs no API key.
async fn announce(output: Output, text: &str, dialer: &Dialer, shard: &str) {
    let started = Instant::now();
    let mut said_slow = false;
    let Ok(endpoint) = dialer.endpoint(shard) else { return };
    let mut node = MetadataServiceClient::new(endpoint.connect_with_connector_lazy(dialer.clone()));
    loop {
        let request = Deadline::after(Duration::from_secs(2)).request(GetMetadataRequest::default());
        if let Ok(answer) = node.get_metadata(request).await
            && let leaders = answer.into_inner().leaders
            && leaders.len() > 1
            && leaders.iter().all(|group| group.leader_node_id != 0)
        {
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
