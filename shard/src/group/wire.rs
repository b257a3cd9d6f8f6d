//! Between openraft's types and the messages of `raft_service.proto`, which are also what is stored. Pure.

use std::collections::{BTreeMap, BTreeSet};

use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1 as proto;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{BasicNode, EntryPayload};

use super::trail::Trail;
use super::types::{Command, Config, Entry, Leader, LogId, Membership, SnapshotMeta, StoredMembership, Vote};

/// A message or record lacks something, or contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed Raft message: {0}")]
pub(super) struct Malformed(pub(super) String);

impl Malformed {
    fn lacks(what: &str) -> Self {
        Self(format!("{what} is missing"))
    }
}

type Decoded<T> = Result<T, Malformed>;

pub(super) fn vote(vote: &Vote) -> proto::RaftVote {
    proto::RaftVote { term: vote.leader_id.term, node_id: vote.leader_id.node_id, committed: vote.committed }
}

pub(super) fn read_vote(vote: &proto::RaftVote) -> Vote {
    Vote { leader_id: Leader { term: vote.term, node_id: vote.node_id }, committed: vote.committed }
}

fn need_vote(vote: Option<&proto::RaftVote>) -> Decoded<Vote> {
    vote.map(read_vote).ok_or_else(|| Malformed::lacks("the vote"))
}

pub(super) fn log_id(id: &LogId) -> proto::RaftLogId {
    proto::RaftLogId { term: id.leader_id.term, node_id: id.leader_id.node_id, index: id.index }
}

pub(super) fn read_log_id(id: &proto::RaftLogId) -> LogId {
    LogId { leader_id: Leader { term: id.term, node_id: id.node_id }, index: id.index }
}

fn maybe_log_id(id: Option<&LogId>) -> Option<proto::RaftLogId> {
    id.map(log_id)
}

fn read_maybe_log_id(id: Option<&proto::RaftLogId>) -> Option<LogId> {
    id.map(read_log_id)
}

pub(super) fn membership(membership: &Membership) -> proto::RaftMembership {
    let configs = membership.get_joint_config().iter();
    proto::RaftMembership {
        configs: configs.map(|ids| proto::NodeSet { node_ids: ids.iter().copied().collect() }).collect(),
        nodes: membership
            .nodes()
            .map(|(&node_id, node)| proto::RaftNode { node_id, address: node.addr.clone() })
            .collect(),
    }
}

pub(super) fn read_membership(membership: &proto::RaftMembership) -> Decoded<Membership> {
    let configs: Vec<BTreeSet<u64>> =
        membership.configs.iter().map(|set| set.node_ids.iter().copied().collect()).collect();
    let nodes: BTreeMap<u64, BasicNode> =
        membership.nodes.iter().map(|n| (n.node_id, BasicNode::new(&n.address))).collect();
    // A replica that belongs to no group yet has the empty membership, which openraft's constructor refuses.
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|e| Malformed(format!("membership: {e}")))
}

pub(super) fn entry(entry: &Entry) -> proto::RaftEntry {
    use proto::raft_entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(proto::RaftBlank {}),
        EntryPayload::Normal(command) => Payload::Command(command.0.clone()),
        EntryPayload::Membership(m) => Payload::Membership(membership(m)),
    };
    proto::RaftEntry { log_id: Some(log_id(&entry.log_id)), payload: Some(payload) }
}

pub(super) fn read_entry(entry: proto::RaftEntry) -> Decoded<Entry> {
    use proto::raft_entry::Payload;
    let id = entry.log_id.as_ref().ok_or_else(|| Malformed::lacks("an entry's log id"))?;
    let payload = match entry.payload.ok_or_else(|| Malformed::lacks("an entry's payload"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Command(bytes) => EntryPayload::Normal(Command(bytes, Trail::default())),
        Payload::Membership(m) => EntryPayload::Membership(read_membership(&m)?),
    };
    Ok(Entry { log_id: read_log_id(id), payload })
}

/// What a state machine stores for Raft.
pub(super) fn applied(last: Option<&LogId>, stored: &StoredMembership) -> proto::RaftApplied {
    proto::RaftApplied {
        last_applied: maybe_log_id(last),
        membership: Some(proto::RaftStoredMembership {
            log_id: maybe_log_id(stored.log_id().as_ref()),
            membership: Some(membership(stored.membership())),
        }),
    }
}

pub(super) fn read_applied(applied: &proto::RaftApplied) -> Decoded<SnapshotMeta> {
    let stored = applied.membership.as_ref().ok_or_else(|| Malformed::lacks("the membership"))?;
    let inner = stored.membership.as_ref().ok_or_else(|| Malformed::lacks("the membership's nodes"))?;
    Ok(SnapshotMeta {
        last_log_id: read_maybe_log_id(applied.last_applied.as_ref()),
        last_membership: StoredMembership::new(read_maybe_log_id(stored.log_id.as_ref()), read_membership(inner)?),
    })
}

pub(super) fn vote_request(
    group: GroupId,
    to: NodeId,
    request: &VoteRequest<Config>,
    pre_vote: bool,
) -> proto::VoteRequest {
    proto::VoteRequest {
        group_id: group,
        vote: Some(vote(&request.vote)),
        last_log_id: maybe_log_id(request.last_log_id.as_ref()),
        leader_transfer: request.leadership_transfer,
        pre_vote,
        to,
    }
}

pub(super) fn read_vote_request(request: &proto::VoteRequest) -> Decoded<VoteRequest<Config>> {
    let mut read = VoteRequest::new(need_vote(request.vote.as_ref())?, read_maybe_log_id(request.last_log_id.as_ref()));
    read.leadership_transfer = request.leader_transfer;
    Ok(read)
}

pub(super) fn vote_response(response: &VoteResponse<Config>) -> proto::VoteResponse {
    proto::VoteResponse {
        vote: Some(vote(&response.vote)),
        vote_granted: response.vote_granted,
        last_log_id: maybe_log_id(response.last_log_id.as_ref()),
    }
}

pub(super) fn read_vote_response(response: &proto::VoteResponse) -> Decoded<VoteResponse<Config>> {
    let vote = need_vote(response.vote.as_ref())?;
    Ok(VoteResponse::new(vote, read_maybe_log_id(response.last_log_id.as_ref()), response.vote_granted))
}

pub(super) fn append_request(
    group: GroupId,
    to: NodeId,
    request: &AppendEntriesRequest<Config>,
) -> proto::AppendRequest {
    proto::AppendRequest {
        group_id: group,
        vote: Some(vote(&request.vote)),
        prev_log_id: maybe_log_id(request.prev_log_id.as_ref()),
        leader_commit: maybe_log_id(request.leader_commit.as_ref()),
        entries: request.entries.iter().map(entry).collect(),
        to,
    }
}

pub(super) fn read_append_request(request: proto::AppendRequest) -> Decoded<AppendEntriesRequest<Config>> {
    let request = AppendEntriesRequest::<Config> {
        vote: need_vote(request.vote.as_ref())?,
        prev_log_id: read_maybe_log_id(request.prev_log_id.as_ref()),
        leader_commit: read_maybe_log_id(request.leader_commit.as_ref()),
        entries: request.entries.into_iter().map(read_entry).collect::<Decoded<Vec<_>>>()?,
    };
    // openraft relies on it: a gap would become a hole in the log.
    let first = request.prev_log_id.as_ref().map_or(0, |id| id.index + 1);
    for (next, entry) in (first..).zip(&request.entries) {
        if entry.log_id.index != next {
            return Err(Malformed(format!("entry {} where {next} must be", entry.log_id.index)));
        }
    }
    Ok(request)
}

pub(super) fn append_response(response: &AppendEntriesResponse<Config>) -> proto::AppendResponse {
    use proto::append_response::Result as R;
    let result = match response {
        AppendEntriesResponse::Success => R::Success(proto::RaftBlank {}),
        AppendEntriesResponse::PartialSuccess(id) => {
            R::PartialSuccess(proto::PartialSuccess { matching: maybe_log_id(id.as_ref()) })
        }
        AppendEntriesResponse::Conflict => R::Conflict(proto::RaftBlank {}),
        AppendEntriesResponse::HigherVote(v) => R::HigherVote(vote(v)),
    };
    proto::AppendResponse { result: Some(result) }
}

pub(super) fn read_append_response(response: &proto::AppendResponse) -> Decoded<AppendEntriesResponse<Config>> {
    use proto::append_response::Result as R;
    match response.result.as_ref().ok_or_else(|| Malformed::lacks("the result"))? {
        R::Success(_) => Ok(AppendEntriesResponse::Success),
        R::PartialSuccess(p) => Ok(AppendEntriesResponse::PartialSuccess(read_maybe_log_id(p.matching.as_ref()))),
        R::Conflict(_) => Ok(AppendEntriesResponse::Conflict),
        R::HigherVote(v) => Ok(AppendEntriesResponse::HigherVote(read_vote(v))),
        R::StreamSuccess(_) | R::StreamConflict(_) => Err(Malformed("a stream's answer to a single append".into())),
    }
}

/// Keeps the log ids, unlike openraft's own conversion to the single append's response.
pub(super) fn stream_response(result: &StreamAppendResult<Config>) -> proto::AppendResponse {
    use proto::append_response::Result as R;
    let result = match result {
        Ok(id) => R::StreamSuccess(proto::PartialSuccess { matching: maybe_log_id(id.as_ref()) }),
        Err(StreamAppendError::Conflict(id)) => R::StreamConflict(log_id(id)),
        Err(StreamAppendError::HigherVote(v)) => R::HigherVote(vote(v)),
    };
    proto::AppendResponse { result: Some(result) }
}

pub(super) fn read_stream_response(response: &proto::AppendResponse) -> Decoded<StreamAppendResult<Config>> {
    use proto::append_response::Result as R;
    match response.result.as_ref().ok_or_else(|| Malformed::lacks("the result"))? {
        R::StreamSuccess(p) => Ok(Ok(read_maybe_log_id(p.matching.as_ref()))),
        R::StreamConflict(id) => Ok(Err(StreamAppendError::Conflict(read_log_id(id)))),
        R::HigherVote(v) => Ok(Err(StreamAppendError::HigherVote(read_vote(v)))),
        R::Success(_) | R::PartialSuccess(_) | R::Conflict(_) => {
            Err(Malformed("a single append's answer in a stream".into()))
        }
    }
}

pub(super) fn snapshot_header(group: GroupId, to: NodeId, leader: &Vote, meta: &SnapshotMeta) -> proto::SnapshotHeader {
    proto::SnapshotHeader {
        group_id: group,
        vote: Some(vote(leader)),
        applied: Some(applied(meta.last_log_id.as_ref(), &meta.last_membership)),
        to,
    }
}

pub(super) fn read_snapshot_header(header: &proto::SnapshotHeader) -> Decoded<(Vote, SnapshotMeta)> {
    let applied = header.applied.as_ref().ok_or_else(|| Malformed::lacks("what the snapshot covers"))?;
    Ok((need_vote(header.vote.as_ref())?, read_applied(applied)?))
}

pub(super) fn snapshot_response(vote_now: &Vote) -> proto::InstallSnapshotResponse {
    proto::InstallSnapshotResponse { vote: Some(vote(vote_now)) }
}

pub(super) fn read_snapshot_response(response: &proto::InstallSnapshotResponse) -> Decoded<Vote> {
    need_vote(response.vote.as_ref())
}

pub(super) fn transfer_request(
    group: GroupId,
    request: &TransferLeaderRequest<Config>,
) -> proto::TransferLeaderRequest {
    proto::TransferLeaderRequest {
        group_id: group,
        from: Some(vote(request.from_leader())),
        to: *request.to_node_id(),
        last_log_id: maybe_log_id(request.last_log_id()),
    }
}

pub(super) fn read_transfer_request(request: &proto::TransferLeaderRequest) -> Decoded<TransferLeaderRequest<Config>> {
    let from = need_vote(request.from.as_ref())?;
    Ok(TransferLeaderRequest::new(from, request.to, read_maybe_log_id(request.last_log_id.as_ref())))
}

pub(super) fn transfer_response(response: &TransferLeaderResponse<Config>) -> proto::TransferLeaderResponse {
    use proto::transfer_leader_response::Refusal;
    let refusal = match response {
        Ok(()) => None,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            let (expected, actual) = (Some(vote(expected)), Some(vote(actual)));
            Some(Refusal::VoteChanged(proto::TransferVoteChanged { expected, actual }))
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            let (expected, actual) = (maybe_log_id(expected.as_ref()), maybe_log_id(actual.as_ref()));
            Some(Refusal::LogNotFlushed(proto::TransferLogNotFlushed { expected, actual }))
        }
    };
    proto::TransferLeaderResponse { refusal }
}

pub(super) fn read_transfer_response(
    response: &proto::TransferLeaderResponse,
) -> Decoded<TransferLeaderResponse<Config>> {
    use proto::transfer_leader_response::Refusal;
    Ok(match &response.refusal {
        None => Ok(()),
        Some(Refusal::VoteChanged(r)) => Err(TransferLeaderError::VoteChanged {
            expected: need_vote(r.expected.as_ref())?,
            actual: need_vote(r.actual.as_ref())?,
        }),
        Some(Refusal::LogNotFlushed(r)) => Err(TransferLeaderError::LogNotFlushed {
            expected: read_maybe_log_id(r.expected.as_ref()),
            actual: read_maybe_log_id(r.actual.as_ref()),
        }),
    })
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
