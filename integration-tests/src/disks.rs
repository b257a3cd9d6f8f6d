//! Disks that can be full or lose power: file systems mounted over a node's data folder. Root on Linux only; tests that
//! need them say SKIPPED elsewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::note;

/// EXT4_IOC_SHUTDOWN without flushing the journal: what was not synced is gone, and nothing can be written any more.
const POWER_OFF: &str = "import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";

/// A file system over a folder. Dropping it unmounts it, with all that is in it.
#[derive(Debug)]
pub struct Disk {
    folder: PathBuf,
    /// The file that it is in, if it is not in memory.
    image: Option<PathBuf>,
}

/// Whether file systems can be mounted here; says SKIPPED if not.
pub fn can_mount() -> bool {
    let folder = std::env::temp_dir().join(format!("omma-mount-{}", std::process::id()));
    let mounted = std::fs::create_dir_all(&folder).is_ok()
        && run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&folder)).is_ok();
    if mounted {
        let _ = run(Command::new("umount").arg(&folder));
    } else {
        note!("SKIPPED: file systems cannot be mounted here (that takes root on Linux)");
    }
    let _ = std::fs::remove_dir(&folder);
    mounted
}

impl Disk {
    /// A disk in memory with so much room, over `folder`, whose contents move onto it.
    ///
    /// # Errors
    /// If it cannot be mounted, or the contents do not fit.
    pub fn in_memory(folder: &Path, bytes: u64) -> Result<Self> {
        let size = format!("size={bytes}");
        Self::over(folder, None, &["-t", "tmpfs", "-o", &size, "tmpfs"])
    }

    /// A disk that can lose power, in the file `image`, over `folder`, whose contents move onto it.
    ///
    /// # Errors
    /// If it cannot be made or mounted, or the contents do not fit.
    pub fn with_power_switch(folder: &Path, image: &Path, bytes: u64) -> Result<Self> {
        std::fs::File::create(image)?.set_len(bytes)?;
        run(Command::new("mkfs.ext4").arg("-q").arg(image))?;
        let file = image.display().to_string();
        Self::over(folder, Some(image.to_owned()), &["-t", "ext4", "-o", "loop", &file])
    }

    fn over(folder: &Path, image: Option<PathBuf>, mount: &[&str]) -> Result<Self> {
        let aside = folder.with_extension("aside");
        std::fs::rename(folder, &aside)?;
        std::fs::create_dir(folder)?;
        run(Command::new("mount").args(mount).arg(folder))?;
        let disk = Self { folder: folder.to_owned(), image };
        run(Command::new("cp").arg("-a").arg(aside.join(".")).arg(folder))?;
        run(Command::new("sync").arg("-f").arg(folder))?;
        std::fs::remove_dir_all(&aside)?;
        Ok(disk)
    }

    /// Changes how much room there is. In memory only.
    ///
    /// # Errors
    /// If it cannot.
    pub fn resize(&self, bytes: u64) -> Result<()> {
        let size = format!("remount,size={bytes}");
        run(Command::new("mount").args(["-o", &size]).arg(&self.folder))
    }

    /// Bytes in use.
    ///
    /// # Errors
    /// If `df` fails.
    pub fn used(&self) -> Result<u64> {
        let output = Command::new("df").args(["-B1", "--output=used"]).arg(&self.folder).output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.lines().nth(1).and_then(|line| line.trim().parse().ok()).with_context(|| format!("df said {said:?}"))
    }

    /// The power fails: what was not synced is lost. Kill the node then, and call [`Disk::power_on`].
    ///
    /// # Errors
    /// If the disk has no such switch.
    pub fn power_off(&self) -> Result<()> {
        run(Command::new("python3").args(["-c", POWER_OFF]).arg(&self.folder))
    }

    /// Mounts what is left.
    ///
    /// # Errors
    /// If somebody still uses the disk, or it cannot be mounted.
    pub fn power_on(&self) -> Result<()> {
        let image = self.image.as_ref().context("a disk in memory has no power switch")?;
        run(Command::new("umount").arg(&self.folder))?;
        run(Command::new("mount").args(["-t", "ext4", "-o", "loop"]).arg(image).arg(&self.folder))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = run(Command::new("umount").arg(&self.folder));
        if unmounted.is_err() {
            let _ = run(Command::new("umount").arg("-l").arg(&self.folder));
        }
        if let Some(image) = &self.image {
            let _ = std::fs::remove_file(image);
        }
    }
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {said}", output.status);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_power_failure_loses_what_was_not_synced_and_only_that() {
        if !can_mount() {
            return;
        }
        let run = std::env::temp_dir().join(format!("omma-disk-{}", std::process::id()));
        let folder = run.join("data");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("before"), "moved").unwrap();
        let disk = Disk::with_power_switch(&folder, &run.join("disk"), 32 << 20).unwrap();
        let mut synced = std::fs::File::create(folder.join("synced")).unwrap();
        synced.write_all(b"kept").unwrap();
        synced.sync_all().unwrap();
        std::fs::write(folder.join("not-synced"), "lost").unwrap();
        drop(synced);
        disk.power_off().unwrap();
        assert!(std::fs::write(folder.join("late"), "x").is_err());
        disk.power_on().unwrap();
        assert_eq!(std::fs::read_to_string(folder.join("before")).unwrap(), "moved");
        assert_eq!(std::fs::read_to_string(folder.join("synced")).unwrap(), "kept");
        assert_ne!(std::fs::read_to_string(folder.join("not-synced")).unwrap_or_default(), "lost");
        drop(disk);
        std::fs::remove_dir_all(run).unwrap();
    }

    #[test]
    fn a_disk_in_memory_is_full_when_it_is_full() {
        if !can_mount() {
            return;
        }
        let folder = std::env::temp_dir().join(format!("omma-full-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let disk = Disk::in_memory(&folder, 1 << 20).unwrap();
        assert!(std::fs::write(folder.join("a"), vec![0; 2 << 20]).is_err());
        disk.resize(4 << 20).unwrap();
        std::fs::write(folder.join("a"), vec![0; 2 << 20]).unwrap();
        assert!(disk.used().unwrap() >= 2 << 20);
        drop(disk);
        std::fs::remove_dir(folder).unwrap();
    }
}
