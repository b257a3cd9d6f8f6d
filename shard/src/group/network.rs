//! From one replica to the others of its group.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::{Stream, StreamExt, stream};
use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1 as proto;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tonic::{Code, Status};

use super::peers::{Peer, Peers};
use super::purging::Sending;
use super::snapshot::{SnapshotData, Tally};
use super::types::{Config, RpcError, Snapshot, Vote};
use super::wire::{self, Malformed};

/// An append in a stream is answered after the follower's fsync. Without an answer for this long the stream is given
/// up and begun anew; whether the follower lives is the heartbeats' matter.
const STREAM_STALL: Duration = Duration::from_secs(5);
/// A snapshot of which nothing was accepted for this long is given up.
const SNAPSHOT_STALL: Duration = Duration::from_secs(30);
/// Once all of it was sent, installing it takes at most this long.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Opening a stream takes a round trip and maybe a connection.
const OPEN_TIMEOUT: Duration = Duration::from_secs(2);
/// Chunks read ahead of the network.
const CHUNKS_AHEAD: usize = 4;
/// Waits between tries to reach a peer: short, so that one that returns is found at once.
const RETRY_EVERY: Duration = Duration::from_millis(100);

/// Makes the links of one replica.
pub(super) struct Network {
    pub(super) group: GroupId,
    pub(super) me: NodeId,
    pub(super) peers: Arc<Peers>,
    pub(super) sending: Sending,
}

/// What a link carries decides how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Log,
    Heartbeat,
}

/// To one other replica.
pub(super) struct Link {
    group: GroupId,
    me: NodeId,
    target: NodeId,
    /// As the membership has it.
    address: String,
    peers: Arc<Peers>,
    sending: Sending,
    carries: Use,
}

impl Network {
    fn link(&self, target: NodeId, node: &BasicNode, carries: Use) -> Link {
        let (peers, sending, address) = (self.peers.clone(), self.sending.clone(), node.addr.clone());
        Link { group: self.group, me: self.me, target, address, peers, sending, carries }
    }
}

impl RaftNetworkFactory<Config> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Link {
        self.link(target, node, Use::Log)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &BasicNode) -> Link {
        self.link(target, node, Use::Heartbeat)
    }
}

fn malformed(error: &Malformed) -> RpcError {
    NetworkError::new(error).into()
}

impl Link {
    fn peer(&self) -> Result<Peer, RpcError> {
        self.peers.get(self.target, &self.address).map_err(|e| Unreachable::new(&e).into())
    }

    fn late(&self, action: RPCTypes, after: Duration) -> RpcError {
        Timeout { action, id: self.me, target: self.target, timeout: after }.into()
    }

    fn failed(&self, action: RPCTypes, after: Duration, status: &Status) -> RpcError {
        match status.code() {
            Code::Unavailable => Unreachable::new(status).into(),
            Code::DeadlineExceeded | Code::Cancelled => self.late(action, after),
            _ => NetworkError::new(status).into(),
        }
    }

    /// One request, one answer, within `limit`.
    async fn call<T>(
        &self,
        action: RPCTypes,
        limit: Duration,
        work: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, RpcError> {
        match timeout(limit, work).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.failed(action, limit, &status)),
            Err(_) => Err(self.late(action, limit)),
        }
    }

    async fn ask_vote(
        &self,
        request: &VoteRequest<Config>,
        pre_vote: bool,
        limit: Duration,
    ) -> Result<VoteResponse<Config>, RpcError> {
        let mut client = self.peer()?.quick;
        let request = wire::vote_request(self.group, self.target, request, pre_vote);
        let response = self.call(RPCTypes::Vote, limit, client.vote(request)).await?;
        wire::read_vote_response(&response).map_err(|e| malformed(&e))
    }

    async fn open_stream<S>(&self, input: S) -> Result<AppendStream, RpcError>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + Send + Unpin + 'static,
    {
        let mut client = self.peer()?.bulk;
        let sent = Arc::new(Mutex::new(VecDeque::new()));
        let outbound = input.map({
            let (group, to, sent) = (self.group, self.target, sent.clone());
            move |request| {
                sent.lock().push_back(Instant::now());
                wire::append_request(group, to, &request)
            }
        });
        let answers = self.call(RPCTypes::AppendEntries, OPEN_TIMEOUT, client.stream_append(outbound)).await?;
        Ok(AppendStream { answers, sent })
    }

    /// The next answer; `None` at the end.
    async fn next_answer(&self, stream: &mut AppendStream) -> Option<Result<StreamAppendResult<Config>, RpcError>> {
        loop {
            match timeout(STREAM_STALL / 4, stream.answers.message()).await {
                Ok(Ok(Some(answer))) => {
                    stream.sent.lock().pop_front();
                    return Some(wire::read_stream_response(&answer).map_err(|e| malformed(&e)));
                }
                Ok(Ok(None)) => return None,
                Ok(Err(status)) => return Some(Err(self.failed(RPCTypes::AppendEntries, STREAM_STALL, &status))),
                Err(_) => {
                    let oldest = stream.sent.lock().front().copied();
                    if oldest.is_some_and(|sent| sent.elapsed() > STREAM_STALL) {
                        return Some(Err(self.late(RPCTypes::AppendEntries, STREAM_STALL)));
                    }
                }
            }
        }
    }

    async fn send_snapshot(&self, vote: Vote, snapshot: Snapshot, limit: Duration) -> Result<Vote, RpcError> {
        let mut client = self.peer()?.bulk;
        let header = wire::snapshot_header(self.group, self.target, &vote, &snapshot.meta);
        let chunks = snapshot.snapshot.chunks().map_err(|e| NetworkError::new(&e))?;
        let (sender, messages) = mpsc::channel(CHUNKS_AHEAD);
        let accepted = Arc::new(AtomicU64::new(0));
        let reader = tokio::task::spawn_blocking({
            let accepted = accepted.clone();
            move || send_chunks(header, chunks, &sender, &accepted)
        });
        let outbound = tokio_stream::wrappers::ReceiverStream::new(messages);
        let call = self.call(RPCTypes::InstallSnapshot, limit, client.install_snapshot(outbound));
        tokio::pin!(call);
        let (mut before, mut since, mut sent) = (0, Instant::now(), None);
        let response = loop {
            if let Ok(response) = timeout(Duration::from_secs(1), &mut call).await {
                break response;
            }
            let now = accepted.load(Ordering::Relaxed);
            if reader.is_finished() {
                let since = *sent.get_or_insert_with(Instant::now);
                if since.elapsed() > INSTALL_TIMEOUT {
                    break Err(self.late(RPCTypes::InstallSnapshot, INSTALL_TIMEOUT));
                }
            } else if now != before {
                (before, since) = (now, Instant::now());
            } else if since.elapsed() > SNAPSHOT_STALL {
                break Err(self.late(RPCTypes::InstallSnapshot, SNAPSHOT_STALL));
            }
        };
        match response {
            Ok(response) => wire::read_snapshot_response(&response).map_err(|e| malformed(&e)),
            // If the state could not be read, that is the better explanation.
            Err(error) if reader.is_finished() => match reader.await {
                Ok(Err(cause)) => Err(NetworkError::new(&cause).into()),
                _ => Err(error),
            },
            Err(error) => Err(error),
        }
    }
}

/// Reads the state and feeds the call, as fast as the network takes it. Ends early when the call has ended.
fn send_chunks(
    header: proto::SnapshotHeader,
    chunks: super::state_machine::SnapshotChunks,
    sender: &mpsc::Sender<proto::InstallSnapshotRequest>,
    accepted: &AtomicU64,
) -> Result<(), super::state_machine::StateError> {
    use proto::install_snapshot_request::Message;
    let send = |message| {
        accepted.fetch_add(1, Ordering::Relaxed);
        sender.blocking_send(proto::InstallSnapshotRequest { message: Some(message) }).is_ok()
    };
    let mut tally = Tally::default();
    if !send(Message::Header(header)) {
        return Ok(());
    }
    for chunk in chunks {
        let chunk = chunk?;
        tally.add(&chunk);
        if !send(Message::Chunk(chunk)) {
            return Ok(());
        }
    }
    send(Message::Trailer(tally.trailer()));
    Ok(())
}

struct AppendStream {
    answers: tonic::Streaming<proto::AppendResponse>,
    /// When the requests that are not answered yet were sent.
    sent: Arc<Mutex<VecDeque<Instant>>>,
}

impl RaftNetworkV2<Config> for Link {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Config>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Config>, RpcError> {
        let mut client = self.peer()?.quick;
        let request = wire::append_request(self.group, self.target, &request);
        let response = self.call(RPCTypes::AppendEntries, option.hard_ttl(), client.append(request)).await?;
        wire::read_append_response(&response).map_err(|e| malformed(&e))
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Config>, RpcError>>, RpcError>>
    where
        S: Stream<Item = AppendEntriesRequest<Config>> + OptionalSend + Unpin + 'static,
    {
        if self.carries == Use::Heartbeat {
            return stream_append_sequential(self, input, option);
        }
        Box::pin(async move {
            let link: &Link = self;
            let stream = link.open_stream(input).await?;
            let answers = stream::unfold(Some(stream), move |state| async move {
                let mut stream = state?;
                let answer = link.next_answer(&mut stream).await?;
                // An error or a refusal ends the stream.
                let goes_on = matches!(answer, Ok(Ok(_)));
                Some((answer, goes_on.then_some(stream)))
            });
            Ok(Box::pin(answers) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Config>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config>, RpcError> {
        self.ask_vote(&request, false, option.hard_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Config>,
        option: RPCOption,
    ) -> Result<VoteResponse<Config>, RpcError> {
        self.ask_vote(&request, true, option.hard_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Config>, StreamingError<Config>> {
        let _holds_the_log = self.sending.begin();
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot, option.hard_ttl()) => Ok(SnapshotResponse::new(sent?)),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Config>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Config>, RpcError> {
        let mut client = self.peer()?.quick;
        let request = wire::transfer_request(self.group, &request);
        let response = self.call(RPCTypes::TransferLeader, option.hard_ttl(), client.transfer_leader(request)).await?;
        wire::read_transfer_response(&response).map_err(|e| malformed(&e))
    }

    fn backoff(&self) -> Option<Backoff> {
        Some(Backoff::new(std::iter::repeat(RETRY_EVERY)))
    }
}
