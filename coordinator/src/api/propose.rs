//! Changes of the metadata: commands to its leader.

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::METADATA_GROUP;
use omma_proto::internal::v1 as node;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::metadata_outcome::Outcome;
use omma_proto::internal::v1::{MetadataCommand, MetadataRefusal};
use omma_proto::v1 as pb;

use super::Coordinator;
use crate::leader::{Effect, call_leader};

/// What a metadata command did.
pub(crate) enum Proposed {
    Done(pb::Collection),
    Refused(MetadataRefusal),
}

/// Has the metadata group replicate a command.
pub(crate) async fn propose(
    coordinator: &Coordinator,
    command: Command,
    deadline: Deadline,
) -> Result<Proposed, ApiError> {
    let command = MetadataCommand { command: Some(command) };
    let answer = call_leader(&coordinator.routing, METADATA_GROUP, Effect::Write, deadline, |node, _| {
        let request = node::ProposeMetadataRequest { command: Some(command.clone()) };
        async move { node.propose_metadata(deadline, request).await }
    })
    .await?;
    match answer.outcome.and_then(|o| o.outcome) {
        Some(Outcome::Done(collection)) => Ok(Proposed::Done(collection)),
        Some(Outcome::Refusal(refusal)) => {
            Ok(Proposed::Refused(MetadataRefusal::try_from(refusal).unwrap_or_default()))
        }
        None => Err(ApiError::new(Reason::Internal, "the metadata leader answered without an outcome")),
    }
}

/// A refusal that no command of this caller can meet with.
pub(crate) fn no_sense(refusal: MetadataRefusal) -> ApiError {
    let text = format!("the metadata leader refused for a reason that makes no sense here: {refusal:?}");
    ApiError::new(Reason::Internal, text)
}
