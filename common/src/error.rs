//! The errors of the public API: one table from reason to gRPC code and details.
//!
//! Each crate maps its own error enums to [`ApiError`] in one place; this file maps that to `tonic::Status` with
//! `google.rpc.ErrorInfo` (reason, domain, metadata), `BadRequest` for fields and `RetryInfo` where retrying helps.

use std::collections::HashMap;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// `ErrorInfo.domain` of every error that Omma makes.
pub const DOMAIN: &str = "omma";

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $code:ident, $retry:expr;)*) => {
        /// Why a request failed: `ErrorInfo.reason`. Stable: clients may match on it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// All of them.
            pub const ALL: &[Reason] = &[$(Reason::$variant,)*];
            /// As in `ErrorInfo.reason`.
            pub fn name(self) -> &'static str { match self { $(Reason::$variant => $name,)* } }
            /// The gRPC code that goes with it.
            pub fn code(self) -> Code { match self { $(Reason::$variant => Code::$code,)* } }
            /// After how many milliseconds a retry may help; `None`: it will not.
            fn retry_millis(self) -> Option<u64> { match self { $(Reason::$variant => $retry,)* } }
        }
    };
}

reasons! {
    /// A field of the request is wrong; `BadRequest` says which.
    InvalidArgument = "INVALID_ARGUMENT", InvalidArgument, None;
    /// An embedding has a wrong dimension, or numbers that are no direction.
    InvalidEmbedding = "INVALID_EMBEDDING", InvalidArgument, None;
    /// The bytes are no picture of a known format, or a damaged one.
    InvalidPicture = "INVALID_PICTURE", InvalidArgument, None;
    /// The bytes are a picture in a format that is not supported.
    UnsupportedPicture = "UNSUPPORTED_PICTURE", InvalidArgument, None;
    /// More bytes or pixels than allowed.
    PictureTooLarge = "PICTURE_TOO_LARGE", InvalidArgument, None;
    /// No such collection.
    CollectionNotFound = "COLLECTION_NOT_FOUND", NotFound, None;
    /// The name is taken.
    CollectionExists = "COLLECTION_EXISTS", AlreadyExists, None;
    /// The name belongs to a collection that is still being deleted.
    CollectionDeleting = "COLLECTION_DELETING", Aborted, Some(200);
    /// The cluster has as many collections as it may.
    TooManyCollections = "TOO_MANY_COLLECTIONS", ResourceExhausted, None;
    /// No such image.
    ImageNotFound = "IMAGE_NOT_FOUND", NotFound, None;
    /// The collection's vector space is not the encoder's.
    VectorSpaceMismatch = "VECTOR_SPACE_MISMATCH", FailedPrecondition, None;
    /// No encoder on the node that was asked.
    NoEncoder = "NO_ENCODER", FailedPrecondition, None;
    /// Another replica leads the group; metadata: `leader_node_id`, `leader_address` if known.
    NotLeader = "NOT_LEADER", Unavailable, Some(20);
    /// The node has no replica of the group.
    UnknownGroup = "UNKNOWN_GROUP", Unavailable, Some(50);
    /// The group does not serve the slots that the request is about, or their writes wait while they move.
    SlotsMoved = "SLOTS_MOVED", Unavailable, Some(20);
    /// A group has no leader, or its leader no majority.
    GroupUnavailable = "GROUP_UNAVAILABLE", Unavailable, Some(100);
    /// Some groups did not answer and the caller did not accept a partial answer.
    PartialAnswer = "PARTIAL_ANSWER", Unavailable, Some(100);
    /// A node could not be reached.
    NodeUnreachable = "NODE_UNREACHABLE", Unavailable, Some(100);
    /// The cluster is not formed yet.
    ClusterForming = "CLUSTER_FORMING", Unavailable, Some(500);
    /// The process is shutting down.
    ShuttingDown = "SHUTTING_DOWN", Unavailable, Some(200);
    /// No credentials, or none that are known, or expired ones.
    Unauthenticated = "UNAUTHENTICATED", Unauthenticated, None;
    /// The caller may not do this, or not in this collection.
    PermissionDenied = "PERMISSION_DENIED", PermissionDenied, None;
    /// The client sends more requests than it may.
    RateLimited = "RATE_LIMITED", ResourceExhausted, Some(500);
    /// A queue is full.
    Overloaded = "OVERLOADED", ResourceExhausted, Some(100);
    /// Too many images wait for the HNSW graph.
    IndexBehind = "INDEX_BEHIND", ResourceExhausted, Some(250);
    /// The disks of too many nodes are nearly full; they need room.
    DiskFull = "DISK_FULL", ResourceExhausted, Some(5_000);
    /// The message is larger than allowed.
    MessageTooLarge = "MESSAGE_TOO_LARGE", ResourceExhausted, None;
    /// A backup's cut of a group is gone; another has to be begun.
    BackupExpired = "BACKUP_EXPIRED", Aborted, None;
    /// The write may or may not have taken effect; retry with the same request id.
    OutcomeUnknown = "OUTCOME_UNKNOWN", Unavailable, Some(100);
    /// The deadline passed. A write may still take effect.
    DeadlineExceeded = "DEADLINE_EXCEEDED", DeadlineExceeded, None;
    /// The node belongs to another cluster.
    WrongCluster = "WRONG_CLUSTER", FailedPrecondition, None;
    /// No such shard node.
    NodeNotFound = "NODE_NOT_FOUND", NotFound, None;
    /// The other nodes are too few for the replicas; metadata: `needed`, `left`.
    TooFewNodes = "TOO_FEW_NODES", FailedPrecondition, None;
    /// The node holds replicas or may be given some: it has to be drained first.
    NodeInUse = "NODE_IN_USE", FailedPrecondition, None;
    /// The node was removed from the cluster; it can come back only as a new one.
    NodeRemoved = "NODE_REMOVED", FailedPrecondition, None;
    /// Another node answers at the address.
    AddressInUse = "ADDRESS_IN_USE", FailedPrecondition, None;
    /// The members of a group are not those that a change was planned for, or cannot be changed so.
    MembersChanged = "MEMBERS_CHANGED", Aborted, Some(200);
    /// Stored data is damaged.
    DataLoss = "DATA_LOSS", DataLoss, None;
    /// A bug; the message helps to report it.
    Internal = "INTERNAL", Internal, None;
}

/// An error on its way to a client.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Decides code and retry.
    pub reason: Reason,
    /// For developers: what happened and what to do.
    pub message: String,
    /// Field path and what is wrong with it.
    pub fields: Vec<(String, String)>,
    /// `ErrorInfo.metadata`.
    pub metadata: Vec<(&'static str, String)>,
}

impl ApiError {
    /// Without fields or metadata.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), fields: Vec::new(), metadata: Vec::new() }
    }

    /// One field is wrong: the message names it, `problem` continues the sentence "`field` …".
    pub fn field(field: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        Self::bad_field(Reason::InvalidArgument, field, problem)
    }

    /// As [`ApiError::field`], with a more exact reason.
    pub fn bad_field(reason: Reason, field: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        let (field, problem) = (field.into(), problem.to_string());
        let mut error = Self::new(reason, format!("{field} {problem}"));
        error.fields.push((field, problem));
        error
    }

    /// Adds which limit was passed, by its flag's or its own name, and its value to `ErrorInfo.metadata`.
    pub fn over(self, name: &'static str, limit: impl ToString) -> Self {
        self.with("limit_name", name).with("limit", limit)
    }

    /// Adds a fact to `ErrorInfo.metadata`.
    pub fn with(mut self, key: &'static str, value: impl ToString) -> Self {
        self.metadata.push((key, value.to_string()));
        self
    }

    /// As one image's or query's outcome inside a larger answer.
    pub fn to_rpc_status(&self) -> omma_proto::RpcStatus {
        use prost::Message;
        let status = self.to_status();
        // tonic carries the encoded google.rpc.Status, details included.
        omma_proto::RpcStatus::decode(status.details()).unwrap_or_else(|_| omma_proto::RpcStatus {
            code: status.code() as i32,
            message: status.message().to_owned(),
            details: Vec::new(),
        })
    }

    /// As the outcome of a whole call. In a trace, `ErrorInfo.metadata` names it: `trace_id`.
    pub fn to_status(&self) -> Status {
        let mut metadata: HashMap<String, String> =
            self.metadata.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        metadata.extend(trace_id().map(|id| ("trace_id".to_owned(), id)));
        let mut details = ErrorDetails::with_error_info(self.reason.name(), DOMAIN, metadata);
        for (field, problem) in &self.fields {
            details.add_bad_request_violation(field, problem);
        }
        if let Some(millis) = self.reason.retry_millis() {
            details.set_retry_info(Some(Duration::from_millis(millis)));
        }
        Status::with_error_details(self.reason.code(), &self.message, details)
    }
}

#[cfg(feature = "trace")]
fn trace_id() -> Option<String> {
    crate::telemetry::trace_id()
}

#[cfg(not(feature = "trace"))]
fn trace_id() -> Option<String> {
    None
}

impl From<ApiError> for Status {
    fn from(error: ApiError) -> Self {
        error.to_status()
    }
}

/// The reason in a status that another Omma process sent; `None` if it is not from one (a transport error, say).
pub fn reason_of(status: &Status) -> Option<Reason> {
    let info = status.get_details_error_info()?;
    if info.domain != DOMAIN {
        return None;
    }
    Reason::ALL.iter().copied().find(|r| r.name() == info.reason)
}

/// A fact from a status's `ErrorInfo.metadata`.
pub fn metadata_of(status: &Status, key: &str) -> Option<String> {
    status.get_details_error_info()?.metadata.get(key).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_survive_the_wire() {
        let error = ApiError::field("images[2].id", "must not be empty").with("limit", 256);
        let status = error.to_status();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(reason_of(&status), Some(Reason::InvalidArgument));
        assert_eq!(metadata_of(&status, "limit").as_deref(), Some("256"));
        let fields = status.get_details_bad_request().unwrap().field_violations;
        assert_eq!((fields[0].field.as_str(), fields[0].description.as_str()), ("images[2].id", "must not be empty"));
        let rpc = error.to_rpc_status();
        assert_eq!((rpc.code, rpc.details.len()), (Code::InvalidArgument as i32, 2));
    }

    #[test]
    fn retry_helps_exactly_where_the_table_says() {
        for reason in Reason::ALL {
            let retry = ApiError::new(*reason, "x").to_status().get_details_retry_info();
            assert_eq!(retry.is_some(), reason.retry_millis().is_some(), "{reason:?}");
            if matches!(reason.code(), Code::InvalidArgument | Code::NotFound) {
                assert!(retry.is_none(), "{reason:?}");
            }
        }
    }

    #[test]
    fn foreign_statuses_have_no_reason() {
        assert_eq!(reason_of(&Status::unavailable("tcp connect error")), None);
    }
}
