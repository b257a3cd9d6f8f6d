//! Commands as they are proposed, and their outcomes as they come back.

use bytes::Bytes;
use omma_proto::internal::v1::{ImageCommand, ImageOutcome, ImageRefusal, image_command};
use prost::Message;

pub use super::keys::RECORDS_PER_COMMAND;

/// A command for the log.
pub fn encode(request_id: &str, collection_uid: u64, command: image_command::Command) -> Bytes {
    ImageCommand { request_id: request_id.to_owned(), collection_uid, command: Some(command) }.encode_to_vec().into()
}

/// What a command did. Outcomes come from this process's own state machine: other bytes are a bug, shown as a refusal.
pub fn decode_outcome(outcome: &Bytes) -> ImageOutcome {
    ImageOutcome::decode(outcome.clone()).unwrap_or_else(|_| refused(ImageRefusal::Invalid))
}

/// The outcome of a command without effect.
pub(super) fn refused(why: ImageRefusal) -> ImageOutcome {
    ImageOutcome { refusal: why as i32, ..ImageOutcome::default() }
}
