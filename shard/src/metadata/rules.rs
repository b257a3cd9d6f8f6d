//! By which rules commands of the metadata are applied.
//!
//! All replicas come to the same from the same log, also while some of them run an older version. So what a command does
//! changes only from a number on that is replicated with the metadata. The metadata leader raises it, with a command, once
//! every node says that it knows the new rules. A replica that meets a higher number than it knows ends, rather than
//! differ; and what is new in the metadata itself, so that older versions would lose it, is written only by rules that
//! they do not know.

use omma_proto::internal::v1::Metadata;

use crate::group::state_machine::StateError;

/// A collection is removed only if no group has come since its groups dropped it.
pub(super) const REMOVAL_LOOKS_AT_GROUPS: u32 = 1;

/// The newest rules that this version knows.
pub(crate) const NEWEST: u32 = REMOVAL_LOOKS_AT_GROUPS;

/// Goes by rules `to` from now on. Whether anything changed: they are never lowered.
pub(super) fn raise(metadata: &mut Metadata, to: u32) -> bool {
    let raised = to > metadata.rules;
    metadata.rules = metadata.rules.max(to);
    raised
}

/// An error if this version does not know the rules of `metadata`.
pub(super) fn check(metadata: &Metadata) -> Result<(), StateError> {
    match metadata.rules {
        rules if rules > NEWEST => Err(StateError::NewerRules { rules, known: NEWEST }),
        _ => Ok(()),
    }
}
