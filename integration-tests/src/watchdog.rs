//! Leaves no process behind, however the test ends: panic, abort, Ctrl-C, kill -9.
//!
//! A shell waits on a pipe that only the test process holds open. When the test process is gone the pipe closes; the
//! shell then kills every process whose pid file lies in the cluster's folder and deletes that folder.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};

const SCRIPT: &str = r#"
cat > /dev/null
for f in "$0"/*.pid; do
    [ -f "$f" ] && kill -9 "$(cat "$f")" 2> /dev/null
done
umount -l "$0"/* 2> /dev/null
[ -n "$OMMA_TEST_KEEP" ] || rm -rf "$0"
"#;

/// Watches over one cluster's folder. Dropping it cleans up.
#[derive(Debug)]
pub struct Watchdog(Child);

impl Watchdog {
    /// Watches over `folder`.
    ///
    /// # Errors
    /// If `sh` cannot be started.
    pub fn over(folder: &Path) -> Result<Self> {
        let child = Command::new("sh")
            .arg("-c")
            .arg(SCRIPT)
            .arg(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start sh")?;
        Ok(Self(child))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_what_is_named_and_deletes_the_folder() {
        let folder = std::env::temp_dir().join(format!("omma-watchdog-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let mut sleeper = Command::new("sleep").arg("60").spawn().unwrap();
        std::fs::write(folder.join("a.pid"), sleeper.id().to_string()).unwrap();
        drop(Watchdog::over(&folder).unwrap());
        assert!(!sleeper.wait().unwrap().success());
        assert!(!folder.exists());
    }
}
