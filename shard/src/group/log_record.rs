//! Keys and values of the log's table.
//!
//! Key: group (4 bytes, big endian), kind (1), index (8, big endian; 0 except for entries). Value: format version (1),
//! CRC-32 of key and message (4, little endian), message of `raft_service.proto`.

use bytes::Bytes;
use omma_common::ids::GroupId;
use prost::Message;

/// Written first in every value.
const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 5;

pub(super) type Key = [u8; 13];

/// What a record is. The discriminant is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Vote = 0,
    /// The last log id that was removed from the log's beginning.
    Purged = 1,
    Committed = 2,
    Entry = 3,
    /// The last log id of a log that was erased, because its replica left the group.
    Erased = 4,
}

/// A record of the log cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the log of group {group} is damaged at {what} {index}: {reason}")]
pub struct Damaged {
    /// Whose log.
    pub group: GroupId,
    /// Entry, vote, ….
    pub what: &'static str,
    /// The entry's index; 0 for other records.
    pub index: u64,
    /// What is wrong.
    pub reason: String,
}

impl Damaged {
    /// Whether it is the vote.
    pub(super) fn is_vote(&self) -> bool {
        self.what == Kind::Vote.name()
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Vote => "vote",
            Self::Purged => "purged log id",
            Self::Committed => "committed log id",
            Self::Entry => "entry",
            Self::Erased => "erased log id",
        }
    }
}

pub(super) fn damaged(group: GroupId, kind: Kind, index: u64, reason: impl ToString) -> Damaged {
    Damaged { group, what: kind.name(), index, reason: reason.to_string() }
}

pub(super) fn key(group: GroupId, kind: Kind, index: u64) -> Key {
    let mut key = [0; 13];
    key[..4].copy_from_slice(&group.to_be_bytes());
    key[4] = kind as u8;
    key[5..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The value for `message` at `key`.
pub(super) fn seal(key: &Key, message: &impl Message) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER_BYTES + message.encoded_len());
    value.push(FORMAT);
    value.extend_from_slice(&[0; 4]);
    // Vec grows as needed, so encoding cannot run out of room.
    message.encode_raw(&mut value);
    let crc = checksum(key, &value[HEADER_BYTES..]);
    value[1..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    value
}

/// The message in `value`, which was found at the key of `group`, `kind` and `index`.
pub(super) fn unseal<M: Message + Default>(group: GroupId, kind: Kind, index: u64, value: &[u8]) -> Result<M, Damaged> {
    let bad = |reason: &str| damaged(group, kind, index, reason);
    let (&[version, c0, c1, c2, c3], message) =
        value.split_first_chunk::<HEADER_BYTES>().ok_or_else(|| bad("the record is too short"))?;
    if version != FORMAT {
        return Err(damaged(group, kind, index, format!("unknown format version {version}")));
    }
    if checksum(&key(group, kind, index), message) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Err(bad("the checksum differs"));
    }
    M::decode(Bytes::copy_from_slice(message)).map_err(|e| damaged(group, kind, index, e))
}

fn checksum(key: &Key, message: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(message);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::RaftVote;

    #[test]
    fn records_open_only_where_and_as_they_were_written() {
        let vote = RaftVote { term: 3, node_id: 9, committed: true };
        let value = seal(&key(7, Kind::Vote, 0), &vote);
        assert_eq!(unseal::<RaftVote>(7, Kind::Vote, 0, &value).unwrap(), vote);
        assert!(unseal::<RaftVote>(8, Kind::Vote, 0, &value).is_err());
        for at in 0..value.len() {
            let mut broken = value.clone();
            broken[at] ^= 0x10;
            let error = unseal::<RaftVote>(7, Kind::Vote, 0, &broken).unwrap_err();
            assert_eq!((error.group, error.what), (7, "vote"));
        }
        assert!(unseal::<RaftVote>(7, Kind::Vote, 0, &value[..4]).is_err());
    }

    #[test]
    fn entries_sort_by_group_then_index() {
        let keys = [key(1, Kind::Vote, 0), key(1, Kind::Entry, 255), key(1, Kind::Entry, 256), key(2, Kind::Vote, 0)];
        assert!(keys.is_sorted());
    }
}
