//! The two servers, as their own crates run them: in this process, or named by flags for a process of their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser;
use omma_common::admin::{self, Admin, AdminError, Vitals};
use omma_common::serve::InProcess;
use omma_common::shutdown::Shutdown;
use omma_common::telemetry::{Telemetry, TelemetryArgs};
use tokio::net::TcpListener;

use crate::exit::CliError;

/// How a shard node is to run.
#[derive(Debug, Clone)]
pub(crate) struct ShardSettings {
    pub(crate) data: PathBuf,
    /// Where it listens, and where the others find it.
    pub(crate) address: String,
    /// All shard nodes that form the cluster, itself among them.
    pub(crate) peers: Vec<String>,
    pub(crate) groups: u32,
    pub(crate) replication: u32,
    pub(crate) onnxruntime: PathBuf,
    pub(crate) model: Option<PathBuf>,
    pub(crate) device: String,
    pub(crate) log: String,
}

impl ShardSettings {
    /// As flags of omma-shard.
    pub(crate) fn flags(&self) -> Vec<OsString> {
        let path = |path: &Path| path.as_os_str().to_owned();
        let mut flags: Vec<OsString> = vec!["--data".into(), path(&self.data)];
        let mut flag = |name: &str, value: OsString| flags.extend([name.into(), value]);
        flag("--listen", self.address.as_str().into());
        flag("--advertise", self.address.as_str().into());
        flag("--peers", self.peers.join(",").into());
        flag("--groups", self.groups.to_string().into());
        flag("--replication", self.replication.to_string().into());
        flag("--onnxruntime", path(&self.onnxruntime));
        if let Some(model) = &self.model {
            flag("--model", path(model));
        }
        flag("--device", self.device.as_str().into());
        flag("--log", self.log.as_str().into());
        flag("--admin-listen", admin::OFF.into());
        flags
    }
}

/// Flags of omma-coordinator.
pub(crate) fn coordinator_flags(listen: &str, shard_nodes: &[String], log: &str) -> Vec<OsString> {
    let pairs = [
        ("--listen", listen),
        ("--shard-nodes", &shard_nodes.join(",")),
        ("--log", log),
        ("--admin-listen", admin::OFF),
    ];
    pairs.iter().flat_map(|(name, value)| [OsString::from(name), OsString::from(value)]).collect()
}

/// A shard node's command line.
#[derive(Debug, Parser)]
#[command(name = "omma shard", version)]
struct ShardCommand {
    #[command(flatten)]
    shard: omma_shard::ShardArgs,
    /// Where to serve metrics and probes over HTTP; off for nowhere. Port 0 takes a free port.
    #[arg(long, env = "OMMA_ADMIN_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:7711")]
    admin_listen: String,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// A coordinator's command line.
#[derive(Debug, Parser)]
#[command(name = "omma coordinator", version)]
struct CoordinatorCommand {
    #[command(flatten)]
    args: omma_coordinator::Args,
    /// Where to serve metrics and probes over HTTP; off for nowhere. Port 0 takes a free port.
    #[arg(long, env = "OMMA_ADMIN_LISTEN", value_name = "HOST:PORT", default_value = "127.0.0.1:7710")]
    admin_listen: String,
    #[command(flatten)]
    telemetry: TelemetryArgs,
}

/// Reads a server's flags. Ends the process as clap does: after --help, or with a message about what is wrong.
fn read<T: Parser>(name: &str, flags: Vec<OsString>) -> T {
    T::parse_from(std::iter::once(OsString::from(name)).chain(flags))
}

/// `omma shard FLAGS`: a shard node until a signal ends it.
pub(crate) async fn shard_command(flags: Vec<OsString>) -> Result<(), CliError> {
    let command: ShardCommand = read("omma shard", flags.clone());
    let _telemetry = telemetry("omma-shard", &command.telemetry)?;
    let shutdown = Shutdown::on_signals();
    let vitals = Vitals::default();
    let _admin = Admin::serve(&command.admin_listen, vec![vitals.clone()]).await?;
    run_shard(flags, vitals, None, shutdown).await
}

/// `omma coordinator FLAGS`: a coordinator until a signal ends it.
pub(crate) async fn coordinator_command(flags: Vec<OsString>) -> Result<(), CliError> {
    let command: CoordinatorCommand = read("omma coordinator", flags.clone());
    let _telemetry = telemetry("omma-coordinator", &command.telemetry)?;
    let shutdown = Shutdown::on_signals();
    let vitals = Vitals::default();
    let _admin = Admin::serve(&command.admin_listen, vec![vitals.clone()]).await?;
    run_coordinator(flags, vitals, None, shutdown).await
}

/// A shard node in this process, until `shutdown`. Its flags open no admin port: the caller may.
/// `in_process` lets a coordinator of this process in.
pub(crate) async fn run_shard(
    flags: Vec<OsString>,
    vitals: Vitals,
    in_process: Option<InProcess>,
    shutdown: Shutdown,
) -> Result<(), CliError> {
    let args = read::<ShardCommand>("omma shard", flags).shard;
    let listener = bind(&args.listen).await?;
    let config = omma_shard::ShardConfig { vitals, in_process, ..args.config() };
    omma_shard::run(listener, config, shutdown)
        .await
        .map_err(|e| CliError::Failed(format!("the shard node ended: {e}")))
}

/// A coordinator in this process, until `shutdown`. Its flags open no admin port: the caller may.
/// `in_process` leads to a shard node of this process.
pub(crate) async fn run_coordinator(
    flags: Vec<OsString>,
    vitals: Vitals,
    in_process: Option<InProcess>,
    shutdown: Shutdown,
) -> Result<(), CliError> {
    let args = read::<CoordinatorCommand>("omma coordinator", flags).args;
    let listener = bind(&args.listen).await?;
    let config = omma_coordinator::CoordinatorConfig { vitals, in_process, ..args.config() };
    omma_coordinator::run(listener, config, shutdown)
        .await
        .map_err(|e| CliError::Failed(format!("the coordinator ended: {e}")))
}

async fn bind(address: &str) -> Result<TcpListener, CliError> {
    let binding = |source| CliError::Io { what: format!("listen on {address}"), source };
    TcpListener::bind(address).await.map_err(binding)
}

/// Logs, and traces if an endpoint is given. Kept by the caller until the process ends.
pub(crate) fn telemetry(service: &'static str, args: &TelemetryArgs) -> Result<Telemetry, CliError> {
    args.init(service).map_err(|e| CliError::Usage(e.to_string()))
}

impl From<AdminError> for CliError {
    fn from(error: AdminError) -> Self {
        Self::Usage(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_become_flags() {
        let settings = ShardSettings {
            data: "d".into(),
            address: "127.0.0.1:1".into(),
            peers: vec!["127.0.0.1:1".into(), "127.0.0.1:2".into()],
            groups: 3,
            replication: 3,
            onnxruntime: "lib.so".into(),
            model: None,
            device: "auto".into(),
            log: "info".into(),
        };
        let flags = settings.flags();
        let after = |name: &str| flags.iter().position(|f| f == name).and_then(|i| flags.get(i + 1)).cloned();
        assert_eq!(after("--peers"), Some("127.0.0.1:1,127.0.0.1:2".into()));
        assert_eq!((after("--data"), after("--model")), (Some("d".into()), None));
    }
    #[test]
    fn the_servers_know_the_flags_that_they_are_given() {
        use clap::CommandFactory;

        ShardCommand::command().debug_assert();
        CoordinatorCommand::command().debug_assert();
        let settings = ShardSettings {
            data: "d".into(),
            address: "127.0.0.1:1".into(),
            peers: vec!["127.0.0.1:1".into()],
            groups: 2,
            replication: 1,
            onnxruntime: "lib.so".into(),
            model: Some("m".into()),
            device: "cpu".into(),
            log: "warn".into(),
        };
        let shard: ShardCommand = read("omma shard", settings.flags());
        assert_eq!((shard.shard.groups, shard.shard.replication, shard.telemetry.log.as_str()), (2, 1, "warn"));
        let flags = coordinator_flags("127.0.0.1:0", &["a:1".into(), "b:2".into()], "warn");
        assert_eq!(shard.admin_listen, "off", "many on one machine must not collide");
        let coordinator: CoordinatorCommand = read("omma coordinator", flags);
        assert_eq!(coordinator.args.shard_nodes, ["a:1", "b:2"]);
    }
}
