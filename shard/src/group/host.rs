//! All replicas of this process, and what they share: the log's store, connections, the folder for snapshots.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::future::join_all;
use omma_common::ids::{GroupId, NodeId};
use omma_common::tls::Dialer;
use openraft::RaftLogReader;
use parking_lot::Mutex;

use super::damage::Damage;
use super::error::GroupError;
use super::log_db::LogDb;
use super::log_store::LogStore;
use super::log_writer::LogCounters;
use super::machine::Machine;
use super::network::Network;
use super::peers::{AddressBook, Peers};
use super::purging::{self, Sending};
use super::quiet::Quiet;
use super::replica::Replica;
use super::state_machine::StateMachine;
use super::timings::RaftTimings;
use crate::room::Room;
use crate::store::StoreError;

/// One per process.
pub struct GroupHost {
    pub(super) node: NodeId,
    pub(super) spool: PathBuf,
    /// For what comes from other replicas.
    pub(super) room: Room,
    timings: RaftTimings,
    peers: Arc<Peers>,
    log: Arc<LogDb>,
    replicas: Mutex<Registry>,
}

#[derive(Default)]
struct Registry {
    running: HashMap<GroupId, Replica>,
    /// Being started or stopped.
    changing: HashSet<GroupId>,
    /// Opened once each, also if the replica is stopped and started again.
    logs: HashMap<GroupId, LogStore>,
    stopped: bool,
}

impl GroupHost {
    /// Opens or creates `data_dir/raft` and `data_dir/spool`, which is emptied. Blocks.
    pub fn open(
        data_dir: &Path,
        node_id: NodeId,
        timings: RaftTimings,
        addresses: AddressBook,
        dialer: Dialer,
        room: Room,
    ) -> Result<Arc<Self>, GroupError> {
        timings.config(0)?;
        let (raft, spool) = (data_dir.join("raft"), data_dir.join("spool"));
        let io = |what: &str, path: &Path| {
            let what = format!("{what} {}", path.display());
            move |source| GroupError::Io { what, source }
        };
        std::fs::create_dir_all(&raft).map_err(io("cannot create", &raft))?;
        if spool.exists() {
            std::fs::remove_dir_all(&spool).map_err(io("cannot empty", &spool))?;
        }
        std::fs::create_dir_all(&spool).map_err(io("cannot create", &spool))?;
        Ok(Arc::new(Self {
            node: node_id,
            spool,
            room,
            timings,
            peers: Arc::new(Peers::new(addresses, dialer)),
            log: LogDb::open(&raft)?,
            replicas: Mutex::default(),
        }))
    }

    /// Opens this node's replica of `group`, or creates one that belongs to no group yet: it waits to be initialised,
    /// or to be added by a leader. `state` must be the one that was used before; its snapshot is taken (but not
    /// read) twice. Returns the running replica if there is one.
    pub async fn start(&self, group: GroupId, state: Arc<dyn StateMachine>) -> Result<Replica, GroupError> {
        {
            let mut registry = self.replicas.lock();
            if registry.stopped {
                return Err(GroupError::Stopped(group));
            }
            if let Some(running) = registry.running.get(&group) {
                return Ok(running.clone());
            }
            if !registry.changing.insert(group) {
                return Err(GroupError::Unavailable { group, why: "it is being started or stopped" });
            }
        }
        let started = self.start_new(group, state).await;
        let (replica, stopped) = {
            let mut registry = self.replicas.lock();
            registry.changing.remove(&group);
            let replica = started?;
            if !registry.stopped {
                registry.running.insert(group, replica.clone());
            }
            (replica, registry.stopped)
        };
        if stopped {
            replica.stop().await;
            return Err(GroupError::Stopped(group));
        }
        Ok(replica)
    }

    async fn start_new(&self, group: GroupId, state: Arc<dyn StateMachine>) -> Result<Replica, GroupError> {
        let fatal = |reason: String| GroupError::Fatal { group, reason };
        let mut log = self.log_of(group).await.inspect_err(|error| {
            if let GroupError::Damaged(found) = error {
                self.log.damage.log(found);
            }
        })?;
        let promised = log.read_vote().await.map_err(|e| fatal(e.to_string()))?.is_some();
        let machine =
            Machine::new(group, state.clone(), self.log.damage.clone()).await.map_err(|e| fatal(e.to_string()))?;
        let sending = Sending::default();
        let network = Network { group, me: self.node, peers: self.peers.clone(), sending: sending.clone() };
        let config = openraft::Config { enable_elect: !promised, ..self.timings.config(group)? };
        let raft = super::types::Raft::new(self.node, Arc::new(config), network, log.clone(), machine);
        let raft = raft.await.map_err(|e| fatal(e.to_string()))?;
        let quiet = if promised { Quiet::after_restart(&raft, &log, self.node, &self.timings) } else { Quiet::over() };
        tokio::spawn(purging::run(raft.clone(), sending, self.timings.clone(), self.room.clone()));
        Ok(Replica::new(group, raft, log, state, self.peers.clone(), &self.timings, quiet))
    }

    async fn log_of(&self, group: GroupId) -> Result<LogStore, GroupError> {
        if let Some(log) = self.replicas.lock().logs.get(&group) {
            return Ok(log.clone());
        }
        let db = self.log.clone();
        let opened = tokio::task::spawn_blocking(move || LogStore::open(&db, group)).await;
        let log = opened.map_err(|e| GroupError::Fatal { group, reason: e.to_string() })??;
        self.replicas.lock().logs.insert(group, log.clone());
        Ok(log)
    }

    /// This node's replica of `group`.
    pub fn get(&self, group: GroupId) -> Option<Replica> {
        self.replicas.lock().running.get(&group).cloned()
    }

    /// All of this node's replicas, by group.
    pub fn replicas(&self) -> Vec<Replica> {
        let mut replicas: Vec<_> = self.replicas.lock().running.values().cloned().collect();
        replicas.sort_by_key(Replica::group);
        replicas
    }

    /// This node's id.
    pub fn node_id(&self) -> NodeId {
        self.node
    }

    /// What the logs cost so far.
    pub fn log_counters(&self) -> LogCounters {
        self.log.counters()
    }

    /// Operations that wait for the logs' writer, and how many may.
    pub fn log_queue(&self) -> (usize, usize) {
        (self.log.waiting(), super::log_writer::QUEUE)
    }

    /// Stops one replica and flushes its state; its log and votes stay, so that it can be started again. Does nothing
    /// if it does not run.
    pub async fn stop(&self, group: GroupId) {
        let replica = {
            let mut registry = self.replicas.lock();
            let Some(replica) = registry.running.remove(&group) else { return };
            registry.changing.insert(group);
            replica
        };
        replica.stop().await;
        self.replicas.lock().changing.remove(&group);
    }

    /// Erases the log of `group`, whose replica does not run and is no member of the group any more. Its vote stays, and
    /// how far its log went: if it becomes a member again, it votes only once it has caught up with that.
    pub async fn erase(&self, group: GroupId) -> Result<(), GroupError> {
        if self.get(group).is_some() {
            return Err(GroupError::Unavailable { group, why: "its replica still runs" });
        }
        let log = match self.log_of(group).await {
            Err(GroupError::Damaged(_)) => {
                let db = self.log.clone();
                let remains = tokio::task::spawn_blocking(move || LogStore::remains(&db, group)).await;
                remains.map_err(|e| GroupError::Fatal { group, reason: e.to_string() })??
            }
            log => log?,
        };
        let erased = log.erase().await;
        erased.map_err(|source| GroupError::Io { what: format!("cannot erase the log of group {group}"), source })
    }

    /// Damage that was found in logs and states and not yet undone, by group.
    pub fn damaged(&self) -> BTreeMap<GroupId, Damage> {
        self.log.damage.all()
    }

    /// Whether a group's copy here is damaged.
    pub fn is_damaged(&self, group: GroupId) -> bool {
        self.log.damage.is_noted(group)
    }

    /// Takes note of damage that was found elsewhere.
    pub fn note_damage(&self, group: GroupId, reason: String) {
        self.log.damage.note(group, Damage { reason, vote_lost: false });
    }

    /// To be called when a damaged copy is out of use.
    pub fn forget_damage(&self, group: GroupId) {
        self.log.damage.forget(group);
    }

    /// Damage or lack of room that has ended the use of the logs' store.
    pub fn store_trouble(&self) -> Option<StoreError> {
        self.log.trouble()
    }

    /// Stops all replicas, flushes their states and the logs, and closes the store. Leaderships are not handed over:
    /// see [`Replica::hand_over`].
    pub async fn shutdown(&self) {
        let replicas: Vec<Replica> = {
            let mut registry = self.replicas.lock();
            registry.stopped = true;
            registry.logs.clear();
            registry.running.drain().map(|(_, replica)| replica).collect()
        };
        join_all(replicas.iter().map(Replica::stop)).await;
        let log = self.log.clone();
        if tokio::task::spawn_blocking(move || log.close()).await.is_err() {
            tracing::error!("closing the Raft log panicked");
        }
    }
}
