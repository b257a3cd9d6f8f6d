//! What a cluster looks like and how its processes are started.

/// What to start.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Names its logs (`target/cluster-logs/NAME`): the test's name.
    pub name: String,
    /// `omma-shard` processes.
    pub shard_nodes: usize,
    /// `omma-coordinator` processes.
    pub coordinators: usize,
    /// Shard groups.
    pub groups: usize,
    /// Replicas of each.
    pub replication: usize,
    /// More flags for `omma-shard`.
    pub shard_flags: Vec<String>,
    /// Whether all calls to shard nodes go through a [`Network`] that can be harmed.
    pub proxied: bool,
    /// What the shard nodes run: `omma-shard`, or a build of it that is broken on purpose.
    pub shard_binary: String,
    /// More environment for shard nodes.
    pub environment: Vec<(String, String)>,
    /// More flags for `omma-coordinator`.
    pub coordinator_flags: Vec<String>,
    /// Under TLS on all ports, and with API keys.
    pub secured: bool,
}

impl ClusterOptions {
    /// Three shard nodes, three groups, replication three, one coordinator.
    pub fn named(name: &str) -> Self {
        let name = name.to_owned();
        Self {
            name,
            shard_nodes: 3,
            coordinators: 1,
            groups: 3,
            replication: 3,
            shard_flags: Vec::new(),
            proxied: false,
            shard_binary: "omma-shard".to_owned(),
            environment: Vec::new(),
            coordinator_flags: Vec::new(),
            secured: false,
        }
    }

    /// One node that holds everything.
    pub fn single(name: &str) -> Self {
        Self { shard_nodes: 1, groups: 1, replication: 1, ..Self::named(name) }
    }

    /// Adds flags for `omma-shard`.
    #[must_use]
    pub fn shard_flags(mut self, flags: &[&str]) -> Self {
        self.shard_flags.extend(flags.iter().map(|&f| f.to_owned()));
        self
    }

    /// Adds flags for `omma-coordinator`.
    #[must_use]
    pub fn coordinator_flags(mut self, flags: &[&str]) -> Self {
        self.coordinator_flags.extend(flags.iter().map(|&f| f.to_owned()));
        self
    }

    /// Adds flags for both servers.
    #[must_use]
    pub fn flags(self, flags: &[&str]) -> Self {
        self.coordinator_flags(flags).shard_flags(flags)
    }

    /// TLS on all ports, and API keys.
    #[must_use]
    pub fn secured(mut self) -> Self {
        self.secured = true;
        self
    }
}
