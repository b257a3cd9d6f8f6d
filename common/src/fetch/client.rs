//! The registries' own clients, run as processes with a time limit.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{FetchError, Pin};

/// Longest that one client may take.
const TIMEOUT: Duration = Duration::from_secs(300);

/// `name==version`, for messages.
pub(super) fn spec(pin: &Pin) -> String {
    format!("{}=={}", pin.name, pin.version)
}

/// `pip download` of one wheel into `folder`.
pub(super) fn pip_download(pin: &Pin, folder: &Path, log: &Path) -> Result<(), FetchError> {
    let clients: [&[&str]; 4] = [&["python3", "-m", "pip"], &["pip3"], &["pip"], &["python", "-m", "pip"]];
    let mut arguments: Vec<String> = [
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--no-cache-dir",
        "--no-input",
        "--disable-pip-version-check",
        "--retries=1",
        "--timeout=20",
        "--quiet",
        "--dest=.",
    ]
    .map(String::from)
    .to_vec();
    if let Some(tag) = &pin.wheel {
        arguments.push(format!("--python-version={}", tag.python));
        arguments.push("--implementation=cp".into());
        arguments.push(format!("--abi={}", tag.abi));
        arguments.extend(tag.platforms.iter().map(|platform| format!("--platform={platform}")));
    }
    arguments.push(spec(pin));
    first_that_works(pin, &clients, &arguments, folder, log)
}

/// `npm pack` of one package into `folder`. Nothing of the package is run.
pub(super) fn npm_pack(pin: &Pin, folder: &Path, log: &Path) -> Result<(), FetchError> {
    let package = format!("{}@{}", pin.name, pin.version);
    let arguments = ["pack", &package, "--ignore-scripts", "--silent", "--fetch-retries=1", "--fetch-timeout=20000"]
        .map(String::from);
    first_that_works(pin, &[&["npm"]], &arguments, folder, log)
}

/// Runs the first of `clients` that exists; a Python without pip counts as not existing.
fn first_that_works(
    pin: &Pin,
    clients: &[&[&str]],
    arguments: &[String],
    folder: &Path,
    log: &Path,
) -> Result<(), FetchError> {
    for client in clients {
        let Some((program, first)) = client.split_first() else { continue };
        let mut command = Command::new(program);
        command.args(first).args(arguments).current_dir(folder);
        match run(&mut command, log, TIMEOUT).map_err(FetchError::io(log))? {
            Outcome::NotFound => {}
            Outcome::Done => return Ok(()),
            Outcome::Failed(output) if output.contains("No module named pip") => {}
            Outcome::Failed(output) => {
                let command = format!("{} {}", client.join(" "), arguments.join(" "));
                return Err(FetchError::Client { package: spec(pin), command, output });
            }
        }
    }
    let tried: Vec<String> = clients.iter().map(|c| format!("`{}`", c.join(" "))).collect();
    Err(FetchError::NoClient { package: spec(pin), tried: tried.join(", ") })
}

enum Outcome {
    Done,
    NotFound,
    /// How it ended and the end of what it said.
    Failed(String),
}

/// Output goes to a file rather than a pipe: nobody has to read while the process runs.
fn run(command: &mut Command, log: &Path, timeout: Duration) -> std::io::Result<Outcome> {
    let output = fs::File::create(log)?;
    let spawned =
        command.stdin(Stdio::null()).stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output)).spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(e) if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) => {
            return Ok(Outcome::NotFound);
        }
        Err(e) => return Err(e),
    };
    let end = Instant::now() + timeout;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(if status.success() {
                Outcome::Done
            } else {
                Outcome::Failed(format!("{status}; {}", tail(&fs::read(log)?)))
            });
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(Outcome::Failed(format!("stopped after {} s; {}", timeout.as_secs(), tail(&fs::read(log)?))));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The last kilobyte: where clients say what went wrong.
fn tail(output: &[u8]) -> String {
    String::from_utf8_lossy(&output[output.len().saturating_sub(1024)..]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::scratch::Scratch;
    use super::*;

    fn shell(script: &str, timeout: Duration) -> Outcome {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        run(Command::new("sh").args(["-c", script]), &scratch.path().join("log"), timeout).unwrap()
    }

    #[test]
    fn outcomes() {
        let long = Duration::from_secs(30);
        assert!(matches!(shell("true", long), Outcome::Done));
        assert!(
            matches!(shell("echo why >&2; exit 3", long), Outcome::Failed(o) if o.contains("why") && o.contains('3'))
        );
        let start = Instant::now();
        assert!(
            matches!(shell("exec sleep 30", Duration::from_millis(100)), Outcome::Failed(o) if o.contains("stopped"))
        );
        assert!(start.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_missing_client_is_named() {
        let scratch = Scratch::new(&std::env::temp_dir()).unwrap();
        let pin = Pin { name: "x", version: "1", sha256: "", wheel: None };
        let clients: [&[&str]; 1] = [&["omma-no-such-client", "-m"]];
        let error = first_that_works(&pin, &clients, &[], scratch.path(), &scratch.path().join("log")).unwrap_err();
        assert!(matches!(&error, FetchError::NoClient { .. }), "{error}");
        assert!(error.to_string().contains("omma-no-such-client -m"), "{error}");
    }
}
