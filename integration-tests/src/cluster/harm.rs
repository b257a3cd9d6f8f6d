//! The harm that is done to shard nodes, and its end.

use anyhow::{Result, bail};

use super::Cluster;

impl Cluster {
    /// kill -9.
    ///
    /// # Errors
    /// If there is no such node.
    pub fn kill(&self, node: usize) -> Result<()> {
        self.shard(node)?.process.kill();
        Ok(())
    }

    /// kill -9 of all shard nodes.
    ///
    /// # Errors
    /// If a signal cannot be sent.
    pub fn kill_all(&self) -> Result<()> {
        // First stopped, so that none sees another one die: as when the power fails.
        for shard in &self.shards {
            shard.process.signal("STOP")?;
        }
        self.shards.iter().for_each(|s| s.process.kill());
        Ok(())
    }

    /// Starts a killed node again, with its data.
    ///
    /// # Errors
    /// If it runs or cannot be started.
    pub fn restart(&self, node: usize) -> Result<()> {
        self.shard(node)?.process.start()
    }

    /// SIGSTOP: the process is there but does nothing.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self, node: usize) -> Result<()> {
        self.shard(node)?.process.signal("STOP")
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self, node: usize) -> Result<()> {
        self.shard(node)?.process.signal("CONT")
    }

    /// Deletes a killed node's data.
    ///
    /// # Errors
    /// If it runs or the folder cannot be deleted.
    pub fn wipe(&self, node: usize) -> Result<()> {
        let shard = self.shard(node)?;
        if shard.process.pid().is_some() {
            bail!("shard node {node} runs; kill it first");
        }
        std::fs::remove_dir_all(&shard.data)?;
        Ok(())
    }
}
