//! This crate's errors on their way out: one table. The encoder's and the groups' are in their own folders.

use omma_common::error::{ApiError, Reason};
use omma_common::ids::GroupId;
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_proto::internal::v1::ImageRefusal;

use crate::group::state_machine::StateError;
use crate::index::IndexError;
use crate::store::StoreError;

/// The state cannot answer.
pub(super) fn state(error: &StateError) -> ApiError {
    let reason = match error {
        StateError::Damaged { .. } | StateError::Store(StoreError::Damaged { .. }) => Reason::DataLoss,
        StateError::Index(IndexError::Busy { .. }) => Reason::Overloaded,
        StateError::Index(_) => Reason::Internal,
        StateError::CutGone => Reason::BackupExpired,
        StateError::TooManyCuts(_) => Reason::Overloaded,
        StateError::Settling => Reason::GroupUnavailable,
        StateError::Dropped => Reason::CollectionNotFound,
        StateError::SlotsMoved => Reason::SlotsMoved,
        StateError::NoRoom(_) => Reason::DiskFull,
        StateError::Store(_) | StateError::File { .. } | StateError::Transfer(_) | StateError::NewerRules { .. } => {
            Reason::Internal
        }
    };
    ApiError::new(reason, error.to_string())
}

/// This node has no replica of the group.
pub(super) fn unknown_group(group: GroupId) -> ApiError {
    ApiError::new(Reason::UnknownGroup, format!("this node has no replica of group {group}; refresh the cluster map"))
        .with("group_id", group)
}

/// The group does not own all slots of the request, or some of them are being handed over.
pub(super) fn slots_moved() -> ApiError {
    ApiError::new(Reason::SlotsMoved, "slots of the request are on the move; refresh the cluster map")
}

/// A required part of a request between nodes is missing.
pub(super) fn missing(field: &str) -> ApiError {
    ApiError::field(field, "is missing")
}

/// An answer would not fit into a message.
pub(super) fn answer_too_large() -> ApiError {
    let limit = MAX_MESSAGE_BYTES;
    let message = format!("the answer would have more than {limit} bytes: ask for less at a time");
    ApiError::new(Reason::MessageTooLarge, message).over("message bytes", limit)
}

/// A command had no effect.
pub(super) fn refusal(why: ImageRefusal, uid: u64) -> ApiError {
    match why {
        ImageRefusal::CollectionDropped => {
            ApiError::new(Reason::CollectionNotFound, format!("collection {uid} was deleted")).with("uid", uid)
        }
        ImageRefusal::Dimension => ApiError::new(
            Reason::InvalidEmbedding,
            format!("collection {uid} has embeddings of another dimension; refresh the collection"),
        ),
        ImageRefusal::RequestIdReused => {
            ApiError::field("request_id", "was used before, for another write: use a new one for each write")
        }
        ImageRefusal::SlotsMoved => slots_moved(),
        ImageRefusal::OutOfStep => {
            ApiError::new(Reason::MembersChanged, "the move of slots is at another step than this was planned for")
        }
        ImageRefusal::Invalid | ImageRefusal::Unspecified => {
            ApiError::new(Reason::Internal, "a replicated command was not understood")
        }
    }
}
