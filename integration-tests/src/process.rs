//! One server process: started, killed, paused, started again.

use std::fs::OpenOptions;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How a server is started; the same each time.
#[derive(Debug)]
pub struct Process {
    name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    log: PathBuf,
    pid_file: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Not started yet. `log` gets both outputs of every run; the pid is kept in `run_folder` for the watchdog.
    pub fn new(name: String, binary: PathBuf, arguments: Vec<String>, log: PathBuf, run_folder: &Path) -> Self {
        let pid_file = run_folder.join(format!("{name}.pid"));
        Self { name, binary, arguments, environment: Vec::new(), log, pid_file, child: Mutex::new(None) }
    }

    /// Adds to its environment.
    #[must_use]
    pub fn environment(mut self, more: &[(String, String)]) -> Self {
        self.environment.extend_from_slice(more);
        self
    }

    /// "shard-0", say.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts it.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start(&self) -> Result<()> {
        let mut child = self.child();
        if child.is_some() {
            bail!("{} runs already", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let started = Command::new(&self.binary)
            .args(&self.arguments)
            // Unless its flags name one: the default would be the same for all.
            .env("OMMA_ADMIN_LISTEN", "off")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.binary.display()))?;
        std::fs::write(&self.pid_file, started.id().to_string())?;
        *child = Some(started);
        Ok(())
    }

    /// Its pid while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Its exit status, if it ended by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.child().as_mut().and_then(|c| c.try_wait().ok().flatten())
    }

    /// kill -9, and waits until it is gone. Does nothing if it does not run.
    pub fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
            let _ = std::fs::remove_file(&self.pid_file);
        }
    }

    /// SIGTERM, and waits until it has ended.
    ///
    /// # Errors
    /// If it does not run, does not end within `patience`, or ends with an error.
    pub fn terminate(&self, patience: Duration) -> Result<()> {
        self.signal("TERM")?;
        let begin = Instant::now();
        while begin.elapsed() < patience {
            if let Some(status) = self.ended() {
                self.kill();
                return if status.success() { Ok(()) } else { bail!("{} ended with {status}", self.name) };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("{} still runs {patience:?} after SIGTERM", self.name)
    }

    /// The whole log.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn log(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&std::fs::read(&self.log)?).into_owned())
    }

    /// Sends a signal by name ("STOP", "CONT", "TERM").
    ///
    /// # Errors
    /// If it does not run or the signal cannot be sent.
    pub fn signal(&self, signal: &str) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        // The shell's own kill: std can send no other signal than KILL, and this crate forbids unsafe code.
        let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", signal, &pid.to_string()]).status()?;
        if !status.success() {
            bail!("cannot send {signal} to {} (pid {pid})", self.name);
        }
        Ok(())
    }

    /// Resident memory in bytes: now, and the most it ever was. Linux only.
    ///
    /// # Errors
    /// If it does not run or there is no `/proc`.
    pub fn memory(&self) -> Result<Memory> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        parse_memory(&status).context("/proc/PID/status has no VmRSS")
    }

    /// The last `bytes` of its log.
    pub fn log_tail(&self, bytes: u64) -> String {
        let read = || -> std::io::Result<String> {
            let mut file = std::fs::File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(bytes)))?;
            let mut tail = Vec::new();
            file.read_to_end(&mut tail)?;
            Ok(String::from_utf8_lossy(&tail).into_owned())
        };
        read().unwrap_or_else(|e| format!("no log: {e}"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub now: u64,
    /// The most so far.
    pub peak: u64,
}

fn parse_memory(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib << 10)
    };
    Some(Memory { now: field("VmRSS:")?, peak: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(arguments: &[&str], folder: &Path) -> Process {
        std::fs::create_dir_all(folder).unwrap();
        let arguments = arguments.iter().map(|&a| a.to_owned()).collect();
        Process::new("p".to_owned(), PathBuf::from("sh"), arguments, folder.join("p.log"), folder)
    }

    #[test]
    fn reads_memory_from_proc() {
        let text = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t   1024 kB\n";
        assert_eq!(parse_memory(text), Some(Memory { now: 1 << 20, peak: 2 << 20 }));
        assert_eq!(parse_memory("Name:\tx\n"), None);
    }

    #[test]
    fn starts_pauses_kills_and_starts_again() {
        let folder = std::env::temp_dir().join(format!("omma-process-{}", std::process::id()));
        let p = process(&["-c", "echo begun; exec sleep 60"], &folder);
        for _ in 0..2 {
            p.start().unwrap();
            assert!(p.start().is_err(), "it runs already");
            p.signal("STOP").unwrap();
            p.signal("CONT").unwrap();
            assert!(p.ended().is_none());
            assert!(p.memory().unwrap().now > 0);
            while !p.log_tail(100).ends_with("begun\n") {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            p.kill();
            assert_eq!(p.pid(), None);
        }
        assert!(p.signal("STOP").is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
