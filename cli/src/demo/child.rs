//! One server as a process of its own; it ends with its owner.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::process::Stdio;

use tokio::process::{Child, Command};

use crate::exit::CliError;

/// How much of a log is shown when a process ends by itself.
const TAIL_BYTES: u64 = 4 << 10;
const TAIL_LINES: usize = 15;

/// A server of this very binary. Killed when dropped, on any way out of the demo.
#[derive(Debug)]
pub(super) struct ServerProcess {
    name: String,
    arguments: Vec<OsString>,
    log: PathBuf,
    child: Option<Child>,
}

impl ServerProcess {
    /// Not started yet. `command` is `shard` or `coordinator`; `log` gets what it writes.
    pub(super) fn new(name: String, command: &str, flags: Vec<OsString>, log: PathBuf) -> Self {
        let arguments = std::iter::once(command.into()).chain(flags).collect();
        Self { name, arguments, log, child: None }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Starts it, again if it was killed.
    pub(super) fn start(&mut self) -> Result<(), CliError> {
        let starting = |source| CliError::Io { what: format!("start {}", self.name), source };
        let binary = std::env::current_exe().map_err(starting)?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log).map_err(CliError::writing(&self.log))?;
        let both = log.try_clone().map_err(CliError::writing(&self.log))?;
        let child = Command::new(binary)
            .args(&self.arguments)
            // The demo's own settings must not reach its servers.
            .env_remove("OMMA_ENDPOINT")
            .env_remove("OMMA_LISTEN")
            .env_remove("OMMA_ADMIN_LISTEN")
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(both)
            .kill_on_drop(true)
            .spawn()
            .map_err(starting)?;
        self.child = Some(child);
        Ok(())
    }

    /// Its process id while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// SIGKILL: no goodbye, no last flush. Returns when the process is gone.
    pub(super) async fn kill(&mut self) -> Result<(), CliError> {
        if let Some(mut child) = self.child.take() {
            child.kill().await.map_err(|source| CliError::Io { what: format!("kill {}", self.name), source })?;
        }
        Ok(())
    }

    /// An error, with the end of its log, if it has ended by itself.
    pub(super) fn check(&mut self) -> Result<(), CliError> {
        let ended = match &mut self.child {
            Some(child) => child.try_wait().ok().flatten(),
            None => None,
        };
        match ended {
            None => Ok(()),
            Some(status) => Err(CliError::Failed(format!(
                "{} ended by itself ({status}). The end of its log:\n{}",
                self.name,
                self.tail()
            ))),
        }
    }

    /// The last lines of its log.
    pub(super) fn tail(&self) -> String {
        let mut text = Vec::new();
        let read = File::open(&self.log).and_then(|mut file| {
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
            file.read_to_end(&mut text)
        });
        if let Err(error) = read {
            return format!("  (cannot read {}: {error})", self.log.display());
        }
        last_lines(&String::from_utf8_lossy(&text), TAIL_LINES)
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let tail = &lines[lines.len().saturating_sub(count)..];
    tail.iter().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_is_short() {
        let text: String = (0..100).map(|n| format!("line {n}\n")).collect();
        assert_eq!(last_lines(&text, 2), "  line 98\n  line 99");
        assert_eq!(last_lines("", 2), "");
    }

    #[tokio::test]
    async fn a_process_that_ends_by_itself_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        // The test binary, asked for something that it does not know, ends at once and says so.
        let flags = vec!["--no-such-flag".into()];
        let mut process = ServerProcess::new("x".into(), "shard", flags, folder.path().join("log"));
        process.start().unwrap();
        for _ in 0..200 {
            if let Err(error) = process.check() {
                assert!(error.to_string().contains("no-such-flag"), "{error}");
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("the process still runs");
    }
}
