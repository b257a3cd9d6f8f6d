//! What other replicas ask of this node's, as messages of `raft_service.proto`.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt, future, stream};
use omma_common::error::ApiError;
use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1 as proto;
use proto::install_snapshot_request::Message;
use tokio::sync::mpsc;
use tonic::Status;

use super::error::GroupError;
use super::host::GroupHost;
use super::replica::Replica;
use super::snapshot::{SnapshotData, Spool, SpoolWriter};
use super::types::Snapshot;
use super::wire::{self, Malformed};

/// Answers to a stream of appends.
pub type AppendResponses = Pin<Box<dyn Stream<Item = Result<proto::AppendResponse, Status>> + Send>>;

/// A transfer of which nothing arrives for this long is given up.
const SNAPSHOT_STALL: Duration = Duration::from_secs(30);
/// Chunks received ahead of the disk.
const CHUNKS_AHEAD: usize = 4;

fn refuse(error: GroupError) -> Status {
    ApiError::from(error).to_status()
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn stopped(group: GroupId) -> Status {
    refuse(GroupError::Stopped(group))
}

impl GroupHost {
    /// The replica of `group` on node `to`. After a wipe a node has a new id, but maybe its old address: what is sent to
    /// the old one must not be answered in its name, as its log and votes are gone.
    fn find(&self, group: GroupId, to: NodeId) -> Result<Replica, Status> {
        if to != 0 && to != self.node {
            return Err(refuse(GroupError::OtherNode { to, here: self.node }));
        }
        self.get(group).ok_or_else(|| refuse(GroupError::UnknownGroup(group)))
    }

    /// Entries are refused before the disk is full: after a failed write the store would take nothing more, and the
    /// leader sends them again.
    fn check_room(&self, request: &proto::AppendRequest) -> Result<(), Status> {
        match request.entries.is_empty() {
            true => Ok(()),
            false => self.room.for_log().map_err(|why| refuse(why.into())),
        }
    }

    /// A candidate asks for this replica's vote, or whether it would get it.
    pub async fn handle_vote(&self, request: proto::VoteRequest) -> Result<proto::VoteResponse, Status> {
        let replica = self.find(request.group_id, request.to)?;
        // A leader that transfers its leadership has given up its lease.
        if replica.is_quiet() && !request.leader_transfer {
            let why = "this replica was restarted just now, and lets the old leader's lease pass";
            return Err(refuse(GroupError::Unavailable { group: request.group_id, why }));
        }
        let vote = wire::read_vote_request(&request).map_err(malformed)?;
        if !replica.may_vote_for(vote.last_log_id) {
            let why = "neither this replica nor the candidate has what this one had when it left the group before";
            return Err(refuse(GroupError::Unavailable { group: request.group_id, why }));
        }
        let answer = match request.pre_vote {
            true => replica.raft().pre_vote(vote).await,
            false => replica.raft().vote(vote).await,
        };
        answer.map(|answer| wire::vote_response(&answer)).map_err(|_| stopped(request.group_id))
    }

    /// A heartbeat, or a single append.
    pub async fn handle_append(&self, request: proto::AppendRequest) -> Result<proto::AppendResponse, Status> {
        let group = request.group_id;
        let replica = self.find(group, request.to)?;
        self.check_room(&request)?;
        let append = wire::read_append_request(request).map_err(malformed)?;
        let answer = replica.raft().append_entries(append).await;
        answer.map(|answer| wire::append_response(&answer)).map_err(|_| stopped(group))
    }

    /// Log entries, pipelined. The first request says for which group; the stream ends with the first refusal. The
    /// answers begin at once, so that the sender need not have anything to send yet.
    pub fn handle_stream_append<S>(self: &std::sync::Arc<Self>, mut requests: S) -> AppendResponses
    where
        S: Stream<Item = Result<proto::AppendRequest, Status>> + Send + Unpin + 'static,
    {
        let host = self.clone();
        let answers = async move {
            let first = match requests.next().await {
                None => return stream::empty().boxed(),
                Some(Err(status)) => return stream::iter([Err(status)]).boxed(),
                Some(Ok(first)) => first,
            };
            let group = first.group_id;
            let replica = match host.find(group, first.to) {
                Ok(replica) => replica,
                Err(status) => return stream::iter([Err(status)]).boxed(),
            };
            if let Err(status) = host.check_room(&first) {
                return stream::iter([Err(status)]).boxed();
            }
            let all = stream::iter([Ok(first)]).chain(requests);
            // The next stream is refused with the reason.
            let all = all.take_while(move |request| {
                future::ready(request.as_ref().map_or(true, |request| host.check_room(request).is_ok()))
            });
            let appends = all.scan((), move |(), request| append_of(group, request)).boxed();
            let answers = replica.raft().stream_append(appends);
            answers
                .map(move |answer| match answer {
                    Ok(answer) => Ok(wire::stream_response(&answer)),
                    Err(_) => Err(stopped(group)),
                })
                .boxed()
        };
        Box::pin(answers.flatten_stream())
    }

    /// Receives a snapshot into a file, checks it, and installs it.
    pub async fn handle_snapshot<S>(&self, mut messages: S) -> Result<proto::InstallSnapshotResponse, Status>
    where
        S: Stream<Item = Result<proto::InstallSnapshotRequest, Status>> + Send + Unpin,
    {
        let Message::Header(header) = next_message(&mut messages).await? else {
            return Err(malformed(Malformed("a snapshot without a header".into())));
        };
        let group = header.group_id;
        let replica = self.find(group, header.to)?;
        let (vote, meta) = wire::read_snapshot_header(&header).map_err(malformed)?;
        // One transfer at a time bounds what the spool takes.
        let _turn = replica
            .receiving()
            .try_lock()
            .map_err(|_| refuse(GroupError::Unavailable { group, why: "it is receiving a snapshot already" }))?;
        self.room.for_images().map_err(|why| refuse(why.into()))?;
        let spool = receive(self.spool.clone(), &mut messages).await?;
        let snapshot = Snapshot { meta, snapshot: SnapshotData::Spooled(spool) };
        let answer = replica.raft().install_full_snapshot(vote, snapshot).await;
        answer.map(|answer| wire::snapshot_response(&answer.vote)).map_err(|_| stopped(group))
    }

    /// The leader asks this replica to take over.
    pub async fn handle_transfer(
        &self,
        request: proto::TransferLeaderRequest,
    ) -> Result<proto::TransferLeaderResponse, Status> {
        let replica = self.find(request.group_id, request.to)?;
        let transfer = wire::read_transfer_request(&request).map_err(malformed)?;
        let answer = replica.raft().handle_transfer_leader(transfer).await;
        answer.map(|answer| wire::transfer_response(&answer)).map_err(|_| stopped(request.group_id))
    }
}

type Append = openraft::raft::AppendEntriesRequest<super::types::Config>;

/// `None` ends the stream: the leader begins another.
fn append_of(group: GroupId, request: Result<proto::AppendRequest, Status>) -> future::Ready<Option<Append>> {
    let append = request.ok().filter(|request| request.group_id == group).map(wire::read_append_request);
    future::ready(match append {
        Some(Ok(append)) => Some(append),
        Some(Err(error)) => {
            tracing::warn!(group, %error, "the leader's stream is malformed");
            None
        }
        None => None,
    })
}

async fn next_message<S>(messages: &mut S) -> Result<Message, Status>
where
    S: Stream<Item = Result<proto::InstallSnapshotRequest, Status>> + Send + Unpin,
{
    let next = tokio::time::timeout(SNAPSHOT_STALL, messages.next()).await;
    let next = next.map_err(|_| Status::deadline_exceeded("nothing of the snapshot arrived for a while"))?;
    let message = next.ok_or_else(|| malformed(Malformed("the snapshot ends without a trailer".into())))??;
    message.message.ok_or_else(|| malformed(Malformed("an empty snapshot message".into())))
}

/// Chunks into a file, up to the trailer.
async fn receive<S>(folder: PathBuf, messages: &mut S) -> Result<Spool, Status>
where
    S: Stream<Item = Result<proto::InstallSnapshotRequest, Status>> + Send + Unpin,
{
    let (sender, mut queue) = mpsc::channel(CHUNKS_AHEAD);
    let writer = tokio::task::spawn_blocking(move || -> io::Result<Spool> {
        let mut spool = SpoolWriter::create(&folder)?;
        while let Some(message) = queue.blocking_recv() {
            match message {
                Message::Chunk(chunk) => spool.add(&chunk)?,
                Message::Trailer(trailer) => return spool.finish(&trailer),
                Message::Header(_) => return Err(io::Error::other("a second header")),
            }
        }
        Err(io::Error::other("the sender gave up"))
    });
    loop {
        let message = next_message(messages).await?;
        let last = matches!(message, Message::Trailer(_));
        // The writer ends early only with an error, which is reported below.
        if sender.send(message).await.is_err() || last {
            break;
        }
    }
    drop(sender);
    let spooled = writer.await.map_err(|e| Status::internal(e.to_string()))?;
    spooled.map_err(|e| Status::internal(format!("cannot receive the snapshot: {e}")))
}
