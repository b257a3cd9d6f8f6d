//! The one table from what a shard node (or the way to it) answered to what to do next and what to tell the client.

use std::error::Error;

use omma_common::error::{ApiError, Reason, metadata_of, reason_of};
use omma_common::ids::{GroupId, NodeId};
use omma_proto::RpcStatus;
use prost::Message;
use tonic::{Code, Status};
use tonic_types::{FieldViolation, RpcStatusExt, StatusExt};

/// A leader that a node points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaderAddress {
    /// Its id.
    pub(crate) node_id: NodeId,
    /// `host:port`; empty if the node did not say.
    pub(crate) address: String,
}

/// What a failed call calls for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    /// Ask the leader, if the node knew one. Nothing took effect.
    Leader(Option<LeaderAddress>),
    /// Ask another replica, or the same one later. Nothing took effect.
    Elsewhere,
    /// As `Elsewhere`, but a write may have taken effect: only with the same request id.
    Unknown,
    /// Slots have moved to another group, or do so just now: by a newer map. Nothing took effect.
    Moved,
    /// Another try would end the same way.
    Stop,
}

/// A failed call to a shard node.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{error}")]
pub(crate) struct CallError {
    /// What to do about it.
    pub(crate) next: Next,
    /// What to tell if nothing can be done.
    #[source]
    pub(crate) error: ApiError,
}

impl From<ApiError> for CallError {
    fn from(error: ApiError) -> Self {
        Self { next: next_for(error.reason, None), error }
    }
}

/// Judges the status that a call to `address` ended with.
pub(crate) fn judge(status: &Status, address: &str) -> CallError {
    match reason_of(status) {
        Some(reason) => CallError { next: next_for(reason, Some(status)), error: kept(reason, status) },
        None => transport(status, address),
    }
}

fn next_for(reason: Reason, status: Option<&Status>) -> Next {
    match reason {
        Reason::NotLeader => Next::Leader(status.and_then(leader_in)),
        Reason::UnknownGroup
        | Reason::GroupUnavailable
        | Reason::NodeUnreachable
        | Reason::ClusterForming
        | Reason::ShuttingDown => Next::Elsewhere,
        Reason::OutcomeUnknown => Next::Unknown,
        Reason::SlotsMoved => Next::Moved,
        _ => Next::Stop,
    }
}

fn leader_in(status: &Status) -> Option<LeaderAddress> {
    let node_id = metadata_of(status, "leader_node_id")?.parse().ok().filter(|id| *id != 0)?;
    Some(LeaderAddress { node_id, address: metadata_of(status, "leader_address").unwrap_or_default() })
}

/// Facts that nodes put into `ErrorInfo.metadata` and that clients may want.
const FACTS: &[&str] = &[
    "limit_name",
    "limit",
    "actual",
    "tail",
    "group_id",
    "leader_node_id",
    "leader_address",
    "collection",
    "expected",
    "format",
    "pixels",
];

/// An error that a node made, as it made it.
fn kept(reason: Reason, status: &Status) -> ApiError {
    let mut error = ApiError::new(reason, status.message());
    if let Some(bad) = status.get_details_bad_request() {
        error.fields = bad.field_violations.into_iter().map(|v| (v.field, v.description)).collect();
    }
    for fact in FACTS {
        if let Some(value) = metadata_of(status, fact) {
            error = error.with(fact, value);
        }
    }
    error
}

/// A node's error for one image: the field that it names becomes the client's, under `path`.
pub(crate) fn placed(status: RpcStatus, path: &str) -> RpcStatus {
    let mut details = status.get_error_details();
    let Some(bad) = details.bad_request().cloned() else { return status };
    let under = |v: FieldViolation| FieldViolation::new(format!("{path}.{}", v.field), v.description);
    details.set_bad_request(bad.field_violations.into_iter().map(under).collect::<Vec<_>>());
    let placed = Status::with_error_details(Code::from_i32(status.code), &status.message, details);
    // tonic carries the encoded google.rpc.Status, details included.
    RpcStatus::decode(placed.details()).unwrap_or(status)
}

/// A status that no Omma process made: the connection failed, or gRPC itself refused.
fn transport(status: &Status, address: &str) -> CallError {
    let message = format!("shard node {address}: {}", status.message());
    let (next, reason) = match status.code() {
        Code::DeadlineExceeded => (Next::Stop, Reason::DeadlineExceeded),
        // tonic's word for a grpc-timeout that passed, on either side.
        Code::Cancelled if status.message().contains("Timeout expired") => (Next::Stop, Reason::DeadlineExceeded),
        Code::OutOfRange | Code::ResourceExhausted => (Next::Stop, Reason::MessageTooLarge),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled | Code::Aborted => {
            (if never_sent(status) { Next::Elsewhere } else { Next::Unknown }, Reason::NodeUnreachable)
        }
        // An older node that does not know the call, or something that is no shard node.
        _ => (Next::Stop, Reason::Internal),
    };
    CallError { next, error: ApiError::new(reason, message).with("address", address) }
}

/// Whether no connection could be made at all.
fn never_sent(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// The map has no such group any more.
pub(crate) fn retired(group: GroupId) -> ApiError {
    ApiError::new(Reason::SlotsMoved, format!("shard group {group} was retired; its slots are elsewhere"))
}

/// When trying to reach a group's leader has to end: the deadline is near.
pub(crate) fn gave_up(group: GroupId, last: Option<CallError>, maybe_written: bool) -> ApiError {
    let why = last.as_ref().map_or_else(|| "no replica is known".to_owned(), |e| e.error.message.clone());
    let (reason, text) = match maybe_written {
        true => (Reason::OutcomeUnknown, "may or may not have taken effect"),
        false => (Reason::GroupUnavailable, "could not be served"),
    };
    ApiError::new(reason, format!("the request to shard group {group} {text}: {why}")).with("group_id", group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ommas_errors_are_kept() {
        let sent = ApiError::field("images[0].id", "must not be empty").over("max-id-bytes", 256).to_status();
        let got = judge(&sent, "n:1");
        assert_eq!(got.next, Next::Stop);
        assert_eq!(got.error.reason, Reason::InvalidArgument);
        assert_eq!(got.error.fields, [("images[0].id".to_owned(), "must not be empty".to_owned())]);
        assert_eq!(got.error.metadata, [("limit_name", "max-id-bytes".to_owned()), ("limit", "256".to_owned())]);
    }

    #[test]
    fn the_leader_is_read_from_the_hint() {
        let hint = |e: ApiError| judge(&e.to_status(), "n:1").next;
        let error = ApiError::new(Reason::NotLeader, "no");
        assert_eq!(hint(error.clone()), Next::Leader(None));
        assert_eq!(hint(error.clone().with("leader_node_id", 0)), Next::Leader(None));
        assert_eq!(hint(error.clone().with("leader_node_id", "x")), Next::Leader(None));
        let leader = LeaderAddress { node_id: 7, address: "m:2".to_owned() };
        assert_eq!(hint(error.with("leader_node_id", 7).with("leader_address", "m:2")), Next::Leader(Some(leader)));
    }

    #[test]
    fn transport_errors_may_have_written() {
        let cases = [
            (Status::unavailable("connection reset"), Next::Unknown, Reason::NodeUnreachable),
            (Status::unknown("transport error"), Next::Unknown, Reason::NodeUnreachable),
            (Status::cancelled("Timeout expired"), Next::Stop, Reason::DeadlineExceeded),
            (Status::deadline_exceeded("late"), Next::Stop, Reason::DeadlineExceeded),
            (Status::out_of_range("message too large"), Next::Stop, Reason::MessageTooLarge),
            (Status::unimplemented("what?"), Next::Stop, Reason::Internal),
        ];
        for (status, next, reason) in cases {
            let got = judge(&status, "n:1");
            assert_eq!((got.next, got.error.reason), (next, reason), "{status:?}");
        }
        let refused = Status::from_error(Box::new(tonic::ConnectError("refused".into())));
        assert_eq!(judge(&refused, "n:1").next, Next::Elsewhere);
    }

    #[test]
    fn fields_are_told_as_the_client_knows_them() {
        let sent = ApiError::bad_field(Reason::InvalidPicture, "picture", "is damaged").with("format", "PNG");
        let got = placed(sent.to_rpc_status(), "images[3]");
        assert_eq!((got.code, got.message.as_str()), (Code::InvalidArgument as i32, "picture is damaged"));
        assert_eq!(got.get_details_bad_request().unwrap().field_violations[0].field, "images[3].picture");
        let info = got.get_details_error_info().unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["format"].as_str()), ("INVALID_PICTURE", "PNG"));
        let plain = ApiError::new(Reason::Overloaded, "busy").to_rpc_status();
        assert_eq!(placed(plain.clone(), "image"), plain);
    }

    #[test]
    fn what_may_be_written_is_said_so() {
        assert_eq!(gave_up(3, None, true).reason, Reason::OutcomeUnknown);
        assert_eq!(gave_up(3, None, false).reason, Reason::GroupUnavailable);
    }
}
