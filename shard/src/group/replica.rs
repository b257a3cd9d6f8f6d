//! One replica, as the rest of the node sees it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use omma_common::deadline::Deadline;
use omma_common::ids::{GroupId, NodeId};
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_common::retry::Backoff;
use omma_common::telemetry;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{
    ClientWriteError, Fatal, ForwardReason, ForwardToLeader, InitializeError, LinearizableReadError, RaftError,
};
use openraft::raft::ClientWriteResponse;
use openraft::{BasicNode, LinearizerOption};
use tokio::sync::{Mutex, Semaphore, watch};
use tracing::Instrument;

use super::error::GroupError;
use super::log_store::LogStore;
use super::machine::blocking;
use super::peers::Peers;
use super::quiet::Quiet;
use super::state_machine::StateMachine;
use super::status::{GroupState, Role, view};
use super::timings::RaftTimings;
use super::trail::Trail;
use super::types::{Command, Config, LogId, Raft};
use crate::broken;
use crate::metrics::{PROPOSAL_SECONDS, PROPOSALS, PROPOSALS_OK, REFUSED};

/// Proposals of one group that may wait at a time.
const MAX_IN_FLIGHT: usize = 1024;
/// Their commands may take so many KiB.
const MAX_IN_FLIGHT_KIB: usize = 64 << 10;
/// Largest command: an append with one entry must fit into a message.
const MAX_COMMAND_BYTES: usize = MAX_MESSAGE_BYTES - (64 << 10);

/// With so few entries to go a replica has caught up: they take less time than to ask.
const NEAR: u64 = 1_000;

/// An applied proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposed {
    /// Its log index.
    pub index: u64,
    /// What the state machine said.
    pub outcome: Bytes,
}

/// What a read must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Barrier {
    /// Everything acknowledged before the read began. Only on the leader.
    Linearizable,
    /// Everything up to this index. On any replica.
    AtLeast(u64),
    /// Whatever is there.
    Any,
}

/// This node's replica of one group. Clones share it.
#[derive(Clone)]
pub struct Replica(Arc<Inner>);

struct Inner {
    group: GroupId,
    raft: Raft,
    log: LogStore,
    state: Arc<dyn StateMachine>,
    peers: Arc<Peers>,
    /// Places for proposals, …
    admission: Arc<Semaphore>,
    /// … and for the KiB of their commands.
    room: Arc<Semaphore>,
    states: watch::Receiver<GroupState>,
    /// The term in which this replica last began to hand the leadership over; 0: never.
    handed_over: AtomicU64,
    receiving: Mutex<()>,
    quiet: Quiet,
    /// Whether it ever had nearly all that its leader had.
    caught_up: AtomicBool,
    /// Time in which a group that works elects a leader.
    election: Duration,
    /// How long a proposal waits for a new leader to hear from a majority.
    patience: Duration,
}

impl Replica {
    pub(super) fn new(
        group: GroupId,
        raft: Raft,
        log: LogStore,
        state: Arc<dyn StateMachine>,
        peers: Arc<Peers>,
        timings: &RaftTimings,
        quiet: Quiet,
    ) -> Self {
        let mut metrics = raft.metrics();
        let (sender, states) = watch::channel(view(group, &metrics.borrow_watched()));
        tokio::spawn(async move {
            // Ends with the replica, or when nobody can look any more.
            while metrics.changed().await.is_ok() && !sender.is_closed() {
                let new = view(group, &metrics.borrow_watched());
                sender.send_if_modified(|old| std::mem::replace(old, new) != *old);
            }
        });
        Self(Arc::new(Inner {
            group,
            raft,
            log,
            state,
            peers,
            admission: Arc::new(Semaphore::new(MAX_IN_FLIGHT)),
            room: Arc::new(Semaphore::new(MAX_IN_FLIGHT_KIB)),
            states,
            handed_over: AtomicU64::new(0),
            receiving: Mutex::new(()),
            quiet,
            caught_up: AtomicBool::new(false),
            election: timings.election_max * 2,
            patience: timings.heartbeat * 2,
        }))
    }

    pub(super) fn raft(&self) -> &Raft {
        &self.0.raft
    }

    pub(super) fn election(&self) -> Duration {
        self.0.election
    }

    pub(super) fn may_vote_for(&self, last: Option<LogId>) -> bool {
        self.0.log.may_vote_for(last)
    }

    pub(super) fn receiving(&self) -> &Mutex<()> {
        &self.0.receiving
    }

    /// Whether this replica may not vote yet.
    pub(super) fn is_quiet(&self) -> bool {
        self.0.quiet.lasts()
    }

    /// Committed entries that it has yet to apply, if those are many and it has not had nearly all before: then it catches
    /// up since its start. Nothing is known without a leader.
    pub fn catching_up(&self) -> Option<u64> {
        let lag = self.status().lag().filter(|_| !self.0.caught_up.load(Ordering::Relaxed))?;
        self.0.caught_up.fetch_or(lag <= NEAR, Ordering::Relaxed);
        (lag > NEAR).then_some(lag)
    }

    /// Why this replica has ended although nobody stopped it: its log or its state failed. It does not come back in
    /// this process.
    pub fn failure(&self) -> Option<GroupError> {
        match self.check_running() {
            Err(GroupError::Stopped(_)) => None,
            Err(error) => Some(error),
            // Its task is gone and did not get to say why.
            Ok(()) if self.0.states.has_changed().is_err() => {
                Some(GroupError::Fatal { group: self.0.group, reason: "it panicked".to_owned() })
            }
            Ok(()) => None,
        }
    }

    /// The group.
    pub fn group(&self) -> GroupId {
        self.0.group
    }

    /// Whether this replica has ever heard of members of its group.
    pub async fn is_initialised(&self) -> Result<bool, GroupError> {
        self.0.raft.is_initialized().await.map_err(|e| self.fatal(&e))
    }

    /// Makes `members` the group's first voters. To be called on one of them, or on all with the same members. Does
    /// nothing if this replica has members already.
    pub async fn initialise(&self, members: &[(NodeId, String)]) -> Result<(), GroupError> {
        let nodes: BTreeMap<NodeId, BasicNode> = members.iter().map(|(id, at)| (*id, BasicNode::new(at))).collect();
        match self.0.raft.initialize(nodes).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(RaftError::APIError(InitializeError::NotInMembers(_))) => {
                Err(self.refused("this node is not one of the first members"))
            }
            Err(RaftError::Fatal(e)) => Err(self.fatal(&e)),
        }
    }

    /// Proposes `command` and waits until this replica has applied it.
    ///
    /// After [`GroupError::DeadlineExceeded`] and [`GroupError::OutcomeUnknown`], and if the future is dropped, the
    /// command may still take effect.
    pub async fn propose(&self, command: Bytes, deadline: Deadline) -> Result<Proposed, GroupError> {
        let begun = std::time::Instant::now();
        let span = telemetry::child(|| tracing::debug_span!("propose", group = self.0.group));
        let proposed = self.propose_now(command, deadline).instrument(span).await;
        match &proposed {
            Ok(_) => {
                PROPOSALS_OK.inc();
                PROPOSAL_SECONDS.took(begun.elapsed());
            }
            Err(error) => {
                PROPOSALS.with(&[error.reason().name()]).inc();
                if matches!(error, GroupError::Overloaded { .. }) {
                    REFUSED.with(&["proposals"]).inc();
                }
            }
        }
        proposed
    }

    async fn propose_now(&self, command: Bytes, deadline: Deadline) -> Result<Proposed, GroupError> {
        let group = self.0.group;
        if command.len() > MAX_COMMAND_BYTES {
            return Err(GroupError::TooLarge { bytes: command.len(), limit: MAX_COMMAND_BYTES });
        }
        self.check_running()?;
        let overloaded = |_| GroupError::Overloaded { group, in_flight: MAX_IN_FLIGHT };
        let place = self.0.admission.clone().try_acquire_owned().map_err(overloaded)?;
        let kib = command.len().div_ceil(1024) as u32;
        let room = self.0.room.clone().try_acquire_many_owned(kib).map_err(overloaded)?;
        let (raft, patience) = (self.0.raft.clone(), deadline.within(self.0.patience));
        let command = Command(command, Trail::here());
        // A task of its own keeps its place until Raft is done with it, even if the caller goes: what waits in Raft
        // stays bounded.
        let write = tokio::spawn(async move {
            let written = write(&raft, command, patience).await;
            drop((place, room));
            written
        });
        match tokio::time::timeout_at(deadline.instant(), write).await {
            Err(_) => Err(GroupError::DeadlineExceeded { group }),
            Ok(Ok(Ok(written))) => Ok(Proposed { index: written.log_id.index, outcome: written.data }),
            Ok(Ok(Err(RaftError::APIError(error)))) => Err(self.write_error(error)),
            Ok(Ok(Err(RaftError::Fatal(_)))) | Ok(Err(_)) => Err(GroupError::OutcomeUnknown { group }),
        }
    }

    /// Waits until this replica's state is as fresh as `barrier` asks; returns the index that is applied then.
    pub async fn read_barrier(&self, barrier: Barrier, deadline: Deadline) -> Result<u64, GroupError> {
        let late = GroupError::DeadlineExceeded { group: self.0.group };
        match barrier {
            Barrier::Any => Ok(self.status().applied),
            Barrier::AtLeast(index) => {
                self.check_index(index)?;
                self.hear_of(index, deadline).await?;
                let mut states = self.watch();
                let waited = tokio::time::timeout_at(deadline.instant(), states.wait_for(|s| s.applied >= index)).await;
                match waited {
                    Ok(Ok(state)) => Ok(state.applied),
                    Ok(Err(_)) => Err(GroupError::Stopped(self.0.group)),
                    Err(_) => Err(late),
                }
            }
            Barrier::Linearizable if broken::serves_stale_reads() => Ok(self.status().applied),
            Barrier::Linearizable => self.confirm_leadership(deadline).await,
        }
    }

    /// Waits until this replica has heard of `index`, which is what a session token of its group asks for: whoever wrote the
    /// token may have made it up. A leader has whatever was committed before it confirmed that it leads, so it knows; another
    /// gives up soon, for the leader to be asked.
    async fn hear_of(&self, index: u64, deadline: Deadline) -> Result<(), GroupError> {
        let state = self.status();
        if state.newest() >= index {
            return Ok(());
        }
        if state.role == Role::Leader {
            self.confirm_leadership(deadline).await?;
            let newest = self.status().newest();
            let beyond = GroupError::BeyondLog { group: self.0.group, index, newest };
            return if newest >= index { Ok(()) } else { Err(beyond) };
        }
        let (patience, mut states) = (deadline.within(self.election()), self.watch());
        match tokio::time::timeout_at(patience.instant(), states.wait_for(|s| s.newest() >= index)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(GroupError::Stopped(self.0.group)),
            Err(_) if deadline.left() == Duration::ZERO => Err(GroupError::DeadlineExceeded { group: self.0.group }),
            Err(_) => Err(self.unavailable("this replica has not heard of the index that the session asks for")),
        }
    }

    /// Waits until it is sure that this replica leads; returns the index that is applied then, which has all that was
    /// committed before.
    async fn confirm_leadership(&self, deadline: Deadline) -> Result<u64, GroupError> {
        // By the lease; if that is out, a round of heartbeats renews it. Who takes over on request is elected although the
        // lease lasts, so that from then on only a round proves that nobody has.
        let handing_over = self.0.handed_over.load(Ordering::Acquire) == self.status().term;
        let age = handing_over.then_some(Duration::ZERO);
        let lease = LinearizerOption::new(age, true).with_wait_timeout(deadline.left());
        let read = tokio::time::timeout_at(deadline.instant(), self.0.raft.ensure_linearizable(lease)).await;
        match read.map_err(|_| GroupError::DeadlineExceeded { group: self.0.group })? {
            Ok(at) => Ok(self.status().applied.max(at.index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => Err(self.forward(to)),
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                Err(self.unavailable("no majority answers its leader"))
            }
            Err(RaftError::Fatal(e)) => Err(self.fatal(&e)),
        }
    }

    /// This replica's view of its group, now.
    pub fn status(&self) -> GroupState {
        view(self.0.group, &self.0.raft.metrics().borrow_watched())
    }

    /// The same, as it changes. The sender is gone when the replica has stopped, also because its store failed.
    pub fn watch(&self) -> watch::Receiver<GroupState> {
        self.0.states.clone()
    }

    /// Hands the leadership to `to`, which must be a voter, and waits until somebody else leads. Only on the leader.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), GroupError> {
        let state = self.status();
        if state.role != Role::Leader {
            return Err(self.not_leader(state.leader, None));
        }
        if state.leader == Some(to) {
            return Ok(());
        }
        if !state.voters.contains(&to) {
            return Err(self.refused("the new leader must be a voter"));
        }
        self.0.handed_over.store(state.term, Ordering::Release);
        self.0.raft.trigger().transfer_leader(to).await.map_err(|e| self.fatal(&e))?;
        let mut states = self.watch();
        let me = state.leader;
        let moved = states.wait_for(|s| s.leader.is_some() && s.leader != me);
        match tokio::time::timeout(self.0.election, moved).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(GroupError::Stopped(self.0.group)),
            Err(_) => Err(self.unavailable("the leadership did not move")),
        }
    }

    /// Before a shutdown: if this replica leads, the voter whose log is longest, and among those the one heard from
    /// last, takes over. Takes at most about two
    /// election timeouts; if it fails, the others elect a leader when this one is gone.
    pub async fn hand_over(&self) {
        let best = {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
            let others =
                metrics.replication.iter().flatten().filter(|(id, _)| **id != metrics.id && voters.contains(id));
            let heard = |id| metrics.heartbeat.as_ref().and_then(|all| all.get(id).copied().flatten());
            others.max_by_key(|(id, matching)| (**matching, heard(id).map(|at| at.into_inner()))).map(|(id, _)| *id)
        };
        let Some(to) = best else { return };
        if let Err(error) = self.transfer_leader(to).await {
            tracing::warn!(group = self.0.group, %error, "the leadership was not handed over");
        }
    }

    /// Proposals that wait, and how many may.
    pub fn proposals(&self) -> (usize, usize) {
        (MAX_IN_FLIGHT.saturating_sub(self.0.admission.available_permits()), MAX_IN_FLIGHT)
    }

    /// Proposals that could be taken now.
    #[cfg(test)]
    pub(super) fn free_places(&self) -> usize {
        self.0.admission.available_permits()
    }

    /// Ends the replica and flushes its state.
    pub(super) async fn stop(&self) {
        // An error means that it has ended already.
        let _ = self.0.raft.shutdown().await;
        let state = self.0.state.clone();
        if let Err(error) = blocking(move || state.flush()).await {
            tracing::error!(group = self.0.group, %error, "the state was not flushed");
        }
    }

    fn check_running(&self) -> Result<(), GroupError> {
        let running = self.0.raft.metrics().borrow_watched().running_state.clone();
        running.map_err(|e| self.fatal(&e))
    }

    pub(super) fn fatal(&self, error: &Fatal<Config>) -> GroupError {
        match error {
            Fatal::Stopped => GroupError::Stopped(self.0.group),
            other => GroupError::Fatal { group: self.0.group, reason: other.to_string() },
        }
    }

    fn unavailable(&self, why: &'static str) -> GroupError {
        GroupError::Unavailable { group: self.0.group, why }
    }

    pub(super) fn refused(&self, reason: impl ToString) -> GroupError {
        GroupError::Membership { group: self.0.group, reason: reason.to_string() }
    }

    fn not_leader(&self, leader: Option<NodeId>, node: Option<BasicNode>) -> GroupError {
        let node = node.or_else(|| {
            let metrics = self.0.raft.metrics();
            let metrics = metrics.borrow_watched();
            leader.and_then(|id| metrics.membership_config.get_node(&id).cloned())
        });
        let leader = leader.zip(node).map(|(id, node)| (id, self.0.peers.address(id, &node.addr)));
        GroupError::NotLeader { group: self.0.group, leader }
    }

    fn forward(&self, to: ForwardToLeader<Config>) -> GroupError {
        match to.reason {
            ForwardReason::NotLeader => self.not_leader(to.leader_id, to.leader_node),
            ForwardReason::LeadershipTransfer => self.unavailable("its leadership moves"),
            ForwardReason::LeaseExpired => self.unavailable("its leader has not heard from a majority lately"),
        }
    }

    pub(super) fn write_error(&self, error: ClientWriteError<Config>) -> GroupError {
        match error {
            ClientWriteError::ForwardToLeader(to) => self.forward(to),
            ClientWriteError::LogEntryDiscarded(_) => GroupError::OutcomeUnknown { group: self.0.group },
            ClientWriteError::ChangeMembershipError(e) => self.refused(e),
            ClientWriteError::PreconditionFailed(e) => self.refused(e),
        }
    }
}

pub(super) type Written = Result<ClientWriteResponse<Config>, RaftError<Config, ClientWriteError<Config>>>;

/// A leader refuses until it has heard from a majority, which for a new one takes a round trip: worth waiting for.
async fn write(raft: &Raft, command: Command, patience: Deadline) -> Written {
    let mut backoff = Backoff::in_cluster();
    loop {
        let written = raft.client_write(command.clone()).await;
        let refused = matches!(
            &written,
            Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to))) if to.reason == ForwardReason::LeaseExpired
        );
        if !refused || !backoff.sleep(patience).await {
            return written;
        }
    }
}
