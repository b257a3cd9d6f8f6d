//! The time after a restart in which a replica neither votes nor stands for election, and that in which one whose log was
//! erased does not stand for it.
//!
//! A leader serves linearizable reads by its lease: those that answered its last heartbeat will not elect another before
//! the lease is over. A replica that restarts has forgotten when it answered last (that is not on disk, and should not
//! be), so it lets the longest lease pass.

use omma_common::ids::NodeId;
use openraft::async_runtime::watch::WatchReceiver;
use tokio::time::Instant;

use super::log_store::LogStore;
use super::timings::RaftTimings;
use super::types::Raft;

/// Until when a replica keeps quiet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quiet(Option<Instant>);

impl Quiet {
    /// Nothing was ever promised.
    pub(super) fn over() -> Self {
        Self(None)
    }

    /// For a replica that may have answered a leader just before it was restarted. `raft` was built without elections:
    /// it gets them when the time is over and its log is whole, at once if it has nobody to mislead.
    pub(super) fn after_restart(raft: &Raft, log: &LogStore, me: NodeId, timings: &RaftTimings) -> Self {
        let alone = raft.metrics().borrow_watched().membership_config.voter_ids().eq([me]);
        if alone {
            raft.runtime_config().elect(true);
            return Self::over();
        }
        let until = Instant::now() + timings.election_max;
        let (raft, log) = (raft.clone(), log.clone());
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let mut metrics = raft.metrics();
            // They change with the log, and end with the replica.
            while !log.is_whole() {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
            raft.runtime_config().elect(true);
        });
        Self(Some(until))
    }

    /// Whether it lasts.
    pub(super) fn lasts(self) -> bool {
        self.0.is_some_and(|until| Instant::now() < until)
    }
}
