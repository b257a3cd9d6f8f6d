//! How fast a group reacts and how much log it keeps.

use std::time::Duration;

use openraft::SnapshotPolicy;

use super::error::GroupError;

/// Times and amounts of all groups of a process. Every node of a cluster should have the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftTimings {
    /// Between two heartbeats of a leader.
    pub heartbeat: Duration,
    /// Shortest silence after which a replica stands for election. Each replica of each group draws anew before each
    /// election, so that two that split the votes once do not do so forever.
    pub election_min: Duration,
    /// Longest such silence; also how long a leader may serve reads without hearing from a majority. Followers let that
    /// lease pass before their own silence counts, so a lost leader is replaced after `election_max` plus between
    /// `election_min` and `election_max`.
    pub election_max: Duration,
    /// Entries after which a replica flushes its state and may drop log.
    pub snapshot_every: u64,
    /// Entries that are kept although the flushed state covers them, for slow followers.
    pub keep_logs: u64,
}

impl Default for RaftTimings {
    fn default() -> Self {
        Self::with_election_timeout(Duration::from_millis(1000))
    }
}

/// Entries per append message; their bytes are bounded by the log's reader.
const MAX_ENTRIES_PER_MESSAGE: u64 = 512;
/// Sending and installing one snapshot takes at most this long, however large it is. One that does not get on is given up
/// long before.
const SNAPSHOT_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);
/// Queued messages between the tasks of one replica.
const CHANNEL_SIZE: u64 = 4096;

impl RaftTimings {
    /// As usual, for an election timeout of `longest` at most.
    pub fn with_election_timeout(longest: Duration) -> Self {
        Self {
            // Also what a heartbeat's answer may take.
            heartbeat: (longest / 5).min(Duration::from_millis(100)),
            // Most of the gap after a leader's death is this draw: only who has the longest log is elected.
            election_min: longest / 4,
            election_max: longest,
            snapshot_every: 5_000,
            keep_logs: 4_000,
        }
    }

    /// For one replica of `group`.
    pub(super) fn config(&self, group: omma_common::ids::GroupId) -> Result<openraft::Config, GroupError> {
        let millis = |d: Duration| d.as_millis() as u64;
        let config = openraft::Config {
            cluster_name: format!("group {group}"),
            heartbeat_interval: millis(self.heartbeat),
            // A follower that acknowledged entries just now needs no heartbeat.
            heartbeat_min_interval: Some(millis(self.heartbeat)),
            election_timeout_min: millis(self.election_min),
            election_timeout_max: millis(self.election_max),
            install_snapshot_timeout: millis(SNAPSHOT_TIMEOUT),
            max_payload_entries: MAX_ENTRIES_PER_MESSAGE,
            max_append_entries: Some(MAX_ENTRIES_PER_MESSAGE),
            replication_lag_threshold: self.snapshot_every + self.keep_logs,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            // What goes, and when, says `purging`.
            max_in_snapshot_log_to_keep: u64::MAX,
            api_channel_size: Some(CHANNEL_SIZE),
            notification_channel_size: Some(CHANNEL_SIZE),
            state_machine_channel_size: Some(256),
            enable_pre_vote: Some(true),
            // Applied state is flushed later: after a restart a leader must be elected anew.
            enable_leader_restore: Some(false),
            // A damaged replica begins again with an empty log. It votes only once it has what it had before.
            allow_log_reversion: Some(true),
            ..openraft::Config::default()
        };
        config.validate().map_err(|e| GroupError::Configuration(e.to_string()))
    }
}
