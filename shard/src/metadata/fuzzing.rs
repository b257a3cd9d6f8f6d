//! Commands of the metadata, as coordinators and nodes propose them.

use omma_proto::internal::v1::{Metadata, MetadataCommand};
use prost::Message;

use super::state::apply;

/// Applies the commands, each with its length in front, to no cluster: a refusal or a change, and the same on every
/// node.
///
/// # Panics
/// If a second node would come to something else, or the metadata could not be read back.
pub fn metadata(bytes: &[u8]) {
    let (mut metadata, mut other) = (Metadata::default(), Metadata::default());
    let mut rest = bytes;
    for index in 1.. {
        if rest.is_empty() {
            break;
        }
        let Ok(command) = MetadataCommand::decode_length_delimited(&mut rest) else { break };
        let outcomes = [apply(&mut metadata, index, command.clone()), apply(&mut other, index, command)];
        assert!(outcomes[0] == outcomes[1] && metadata == other);
    }
    let read = Metadata::decode(&metadata.encode_to_vec()[..]);
    assert!(read.as_ref() == Ok(&metadata), "{metadata:?} became {read:?}");
}
