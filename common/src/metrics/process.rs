//! What a process takes of the machine, from Linux's `/proc`; nothing where there is none.

use std::fs;
use std::io;
use std::sync::LazyLock;
use std::time::{SystemTime, UNIX_EPOCH};

use super::Scrape;

/// Linux counts CPU time for `/proc` in hundredths of a second, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

static STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// Adds what is known.
pub(super) fn scrape(out: &mut Scrape) {
    let mut gauge = |name, help, value: Option<f64>| {
        if let Some(value) = value {
            out.gauge(name, help, &[], value);
        }
    };
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident = field(&status, "VmRSS:").map(|kib| kib * 1024.0);
    gauge("omma_process_resident_memory_bytes", "Memory that the process holds.", resident);
    gauge("omma_process_threads", "Threads of the process.", field(&status, "Threads:"));
    let open = fs::read_dir("/proc/self/fd").ok().map(|all| all.count() as f64);
    gauge("omma_process_open_files", "Open file descriptors, sockets among them.", open);
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    gauge("omma_process_max_open_files", "Most file descriptors.", field(&limits, "Max open files"));
    let started = STARTED.duration_since(UNIX_EPOCH).ok().map(|t| t.as_secs_f64());
    gauge("omma_process_start_time_seconds", "When the process started, in seconds since 1970.", started);
    if let Some(seconds) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(cpu_seconds) {
        let help = "CPU time, user and system.";
        out.counter("omma_process_cpu_seconds_total", help, &[], seconds);
    }
}

/// What a process took and holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Taken {
    /// User and system, since its start.
    pub cpu_seconds: f64,
    /// Memory, now.
    pub resident_bytes: f64,
}

/// Looks at process `pid` of this machine.
///
/// # Errors
/// If there is no such process, or no `/proc`.
pub fn taken(pid: u32) -> io::Result<Taken> {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
    let (stat, status) = (read("stat")?, read("status")?);
    let odd = || io::Error::other("an odd answer of /proc");
    let resident = field(&status, "VmRSS:").ok_or_else(odd)?;
    Ok(Taken { cpu_seconds: cpu_seconds(&stat).ok_or_else(odd)?, resident_bytes: resident * 1024.0 })
}

/// Called early, so that the start is the process's.
pub(crate) fn note_start() {
    LazyLock::force(&STARTED);
}

/// The first number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// Fields 14 and 15; the second, in parentheses, may hold anything.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let (user, system): (f64, f64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some((user + system) / TICKS_PER_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn looks_at_a_process_by_its_id() {
        let this = taken(std::process::id()).unwrap();
        assert!(this.resident_bytes > 1e5 && this.cpu_seconds >= 0.0, "{this:?}");
        assert!(taken(u32::MAX).is_err());
    }

    #[test]
    fn reads_what_linux_writes() {
        let stat = "7 (a ) b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(field("Name:\tx\nVmRSS:\t  1234 kB\n", "VmRSS:"), Some(1234.0));
        assert_eq!(
            field("Max open files            1024                 524288               files", "Max open files"),
            Some(1024.0)
        );
    }
}
