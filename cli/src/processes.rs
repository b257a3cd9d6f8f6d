//! The two servers, as their own crates run them: in this process, or named by flags for a process of their own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use omma_common::shutdown::Shutdown;

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
        flags
    }
}

/// Flags of omma-coordinator.
pub(crate) fn coordinator_flags(listen: &str, shard_nodes: &[String], log: &str) -> Vec<OsString> {
    let pairs = [("--listen", listen), ("--shard-nodes", &shard_nodes.join(",")), ("--log", log)];
    pairs.iter().flat_map(|(name, value)| [OsString::from(name), OsString::from(value)]).collect()
}

const NOT_BUILT_IN: &str = "this build of omma has no servers";

/// `omma shard FLAGS`: a shard node until a signal ends it.
pub(crate) async fn shard_command(flags: Vec<OsString>) -> Result<(), CliError> {
    run_shard(flags, Shutdown::on_signals()).await
}

/// `omma coordinator FLAGS`: a coordinator until a signal ends it.
pub(crate) async fn coordinator_command(flags: Vec<OsString>) -> Result<(), CliError> {
    run_coordinator(flags, Shutdown::on_signals()).await
}

/// A shard node in this process, until `shutdown`.
pub(crate) async fn run_shard(_flags: Vec<OsString>, _shutdown: Shutdown) -> Result<(), CliError> {
    Err(CliError::Failed(NOT_BUILT_IN.into()))
}

/// A coordinator in this process, until `shutdown`.
pub(crate) async fn run_coordinator(_flags: Vec<OsString>, _shutdown: Shutdown) -> Result<(), CliError> {
    Err(CliError::Failed(NOT_BUILT_IN.into()))
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
}
