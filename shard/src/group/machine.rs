//! Drives a [`StateMachine`]: gathers committed entries into chunks, applies them on a blocking thread, answers.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt};
use omma_common::ids::GroupId;
use omma_proto::internal::v1 as proto;
use openraft::storage::{EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend, RaftSnapshotBuilder};
use prost::Message;

use super::damage::DamageNotes;
use super::snapshot::SnapshotData;
use super::state_machine::{Committed, StateError, StateMachine};
use super::types::{Command, Config, LogId, Snapshot, SnapshotMeta, StoredMembership};
use super::wire;
use crate::metrics::{APPLIED_ENTRIES, APPLY_SECONDS, SNAPSHOTS};

/// A chunk is applied when it has this many entries or bytes, or when nothing more is ready.
const CHUNK_ENTRIES: usize = 512;
const CHUNK_BYTES: usize = 4 << 20;

/// openraft's view of a [`StateMachine`].
pub(super) struct Machine {
    group: GroupId,
    state: Arc<dyn StateMachine>,
    damage: DamageNotes,
    applied: SnapshotMeta,
}

/// Runs `work` where it may block.
pub(super) async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    E: std::error::Error + Send + Sync + 'static,
{
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?.map_err(io::Error::other)
}

fn decode(raft: Bytes) -> io::Result<SnapshotMeta> {
    let applied = proto::RaftApplied::decode(raft).map_err(io::Error::other)?;
    wire::read_applied(&applied).map_err(io::Error::other)
}

fn encode(meta: &SnapshotMeta) -> Bytes {
    wire::applied(meta.last_log_id.as_ref(), &meta.last_membership).encode_to_vec().into()
}

impl Machine {
    /// Begins where `state` stands.
    pub(super) async fn new(group: GroupId, state: Arc<dyn StateMachine>, damage: DamageNotes) -> io::Result<Self> {
        let mut machine = Self { group, state, damage, applied: SnapshotMeta::default() };
        let stored = machine.run(|state| state.raft_state()).await?;
        machine.applied = stored.map(decode).transpose()?.unwrap_or_default();
        Ok(machine)
    }

    /// Runs `work` where it may block, and notes the damage that it meets.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn StateMachine) -> Result<T, StateError> + Send + 'static,
    ) -> io::Result<T> {
        let (group, state, damage) = (self.group, self.state.clone(), self.damage.clone());
        blocking(move || work(&*state).inspect_err(|error| damage.state(group, error))).await
    }

    async fn apply_chunk(&mut self, chunk: Vec<EntryResponder<Config>>) -> io::Result<()> {
        let mut entries = Vec::with_capacity(chunk.len());
        let mut responders = Vec::with_capacity(chunk.len());
        let mut trails = Vec::new();
        for (entry, responder) in chunk {
            self.applied.last_log_id = Some(entry.log_id);
            let command = match entry.payload {
                EntryPayload::Blank => None,
                EntryPayload::Normal(Command(bytes, trail)) => {
                    trails.extend(trail.is_recorded().then_some(trail));
                    Some(bytes)
                }
                EntryPayload::Membership(membership) => {
                    self.applied.last_membership = StoredMembership::new(Some(entry.log_id), membership);
                    None
                }
            };
            entries.push(Committed { index: entry.log_id.index, command });
            responders.push(responder);
        }
        let raft = encode(&self.applied);
        let begun = Instant::now();
        let outcomes = self.run(move |state| state.apply(entries, raft)).await?;
        let done = Instant::now();
        APPLY_SECONDS.took(done - begun);
        APPLIED_ENTRIES.add(responders.len() as u64);
        trails.iter().for_each(|trail| trail.applied(begun, done, responders.len()));
        if outcomes.len() != responders.len() {
            return Err(io::Error::other("the state machine gave another number of outcomes than entries"));
        }
        for (responder, outcome) in responders.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(outcome);
            }
        }
        Ok(())
    }
}

/// Bytes that an entry holds, roughly.
fn size(entry: &EntryResponder<Config>) -> usize {
    match &entry.0.payload {
        EntryPayload::Normal(command) => command.0.len(),
        _ => 0,
    }
}

impl RaftStateMachine<Config> for Machine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Flush;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        Ok((self.applied.last_log_id, self.applied.last_membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<Config>>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let first = first?;
            let mut bytes = size(&first);
            let mut chunk = vec![first];
            while chunk.len() < CHUNK_ENTRIES
                && bytes < CHUNK_BYTES
                && let Some(Some(entry)) = entries.next().now_or_never()
            {
                let entry = entry?;
                bytes += size(&entry);
                chunk.push(entry);
            }
            self.apply_chunk(chunk).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Flush {
        Flush { state: self.state.clone(), applied: self.applied.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        let (raft, chunks) = (encode(meta), snapshot.chunks()?);
        self.run(move |state| state.install(raft, chunks)).await?;
        SNAPSHOTS.inc();
        self.applied = meta.clone();
        Ok(())
    }

    /// A live cut: nothing is applied meanwhile, because this and `apply` are called in turn.
    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        if self.applied.last_log_id.is_none() {
            return Ok(None);
        }
        let (raft, chunks) = self.run(|state| state.snapshot()).await?;
        Ok(Some(Snapshot { meta: decode(raft)?, snapshot: SnapshotData::Live(chunks) }))
    }
}

/// "Builds" a snapshot: the state is persistent, so making it durable is all that dropping log entries needs.
pub(super) struct Flush {
    state: Arc<dyn StateMachine>,
    /// What was applied when the flush began, which it therefore covers.
    applied: SnapshotMeta,
}

impl RaftSnapshotBuilder<Config> for Flush {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let state = self.state.clone();
        blocking(move || state.flush()).await?;
        Ok(Snapshot { meta: self.applied.clone(), snapshot: SnapshotData::Local })
    }
}
