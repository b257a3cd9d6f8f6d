//! Raft's messages, as they come from peers and as the log holds them.

use std::fmt::Debug;

use omma_proto::internal::v1 as proto;
use prost::Message;

use super::log_record::{Kind, key, seal, unseal};
use super::wire;

/// What is read is written and read again as the same. `None`: the bytes are no such message, or it is malformed.
fn both_ways<M: Message + Default + Debug + PartialEq, T>(
    bytes: &[u8],
    read: impl Fn(&M) -> Option<T>,
    write: impl Fn(&T) -> M,
) -> Option<()> {
    let known = write(&read(&M::decode(bytes).ok()?)?);
    let again = read(&known).map(|read| write(&read));
    assert!(again.as_ref() == Some(&known), "{known:?} became {again:?}");
    Some(())
}

/// The first byte says which message the rest is.
///
/// # Panics
/// If a message that is read once cannot be written and read again.
pub fn raft(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let _ = match kind % 12 {
        0 => both_ways(bytes, |m| wire::read_vote_request(m).ok(), |m| wire::vote_request(1, 2, m, false)),
        1 => both_ways(bytes, |m| wire::read_vote_response(m).ok(), wire::vote_response),
        2 => both_ways(
            bytes,
            |m: &proto::AppendRequest| wire::read_append_request(m.clone()).ok(),
            |m| wire::append_request(1, 2, m),
        ),
        3 => both_ways(bytes, |m| wire::read_append_response(m).ok(), wire::append_response),
        4 => both_ways(bytes, |m| wire::read_stream_response(m).ok(), wire::stream_response),
        5 => both_ways(
            bytes,
            |m| wire::read_snapshot_header(m).ok(),
            |(vote, meta)| wire::snapshot_header(1, 2, vote, meta),
        ),
        6 => both_ways(bytes, |m| wire::read_snapshot_response(m).ok(), wire::snapshot_response),
        7 => both_ways(bytes, |m| wire::read_transfer_request(m).ok(), |m| wire::transfer_request(1, m)),
        8 => both_ways(bytes, |m| wire::read_transfer_response(m).ok(), wire::transfer_response),
        9 => both_ways(bytes, |m: &proto::RaftEntry| wire::read_entry(m.clone()).ok(), wire::entry),
        10 => proto::InstallSnapshotRequest::decode(bytes).ok().map(drop),
        _ => record(bytes),
    };
}

/// A record of the log: as it is, and with a right head in front.
fn record(bytes: &[u8]) -> Option<()> {
    let _ = unseal::<proto::RaftVote>(1, Kind::Vote, 0, bytes);
    let entry = proto::RaftEntry::decode(bytes).ok()?;
    let sealed = seal(&key(1, Kind::Entry, 7), &entry);
    let opened = unseal::<proto::RaftEntry>(1, Kind::Entry, 7, &sealed);
    assert!(opened.as_ref() == Ok(&entry), "{entry:?} became {opened:?}");
    wire::read_entry(entry).ok().map(drop)
}
