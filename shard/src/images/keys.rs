//! Keys of the state's table. All numbers are big endian, so that the order of bytes is the order of numbers.
//!
//! | prefix | key | value |
//! |---|---|---|
//! | `m` | name | what Raft stores, and the index at which a snapshot settles |
//! | `c` | uid | collection |
//! | `i` | uid, image id | record key |
//! | `r` | uid, record key | record |
//! | `v` | uid, record key | embedding |
//! | `t` | uid, record key | tombstone: a dead record that a graph may still hold |
//! | `q` | log index, and a place if it came with a move of slots | answer to a request that had a request id |
//! | `d` | move id, uid, log index × 4096 + place | id of an image that was removed while its slot was leaving |

/// Names a record for ever: log index × 4096 + place in the command. Keys grow with the log, so that "all records
/// since log index n" is one range, and applying a command twice gives its records the same keys.
pub(super) type RecordKey = u64;

/// Most records of one command.
pub const RECORDS_PER_COMMAND: usize = 1 << PLACE_BITS;
const PLACE_BITS: u32 = 12;

/// The key of the record at `place` of the command at log `index`.
pub(super) fn record_key(index: u64, place: usize) -> RecordKey {
    debug_assert!(place < RECORDS_PER_COMMAND);
    (index << PLACE_BITS) | place as u64
}

/// The log index of the command that wrote a record.
pub(super) fn index_of(key: RecordKey) -> u64 {
    key >> PLACE_BITS
}

/// What the Raft layer keeps here.
pub(super) const RAFT: &[u8] = b"mraft";
/// The newest log index that is applied.
pub(super) const APPLIED: &[u8] = b"mapplied";
/// Until which log index the state may hold effects of entries that are not applied yet.
pub(super) const SETTLED: &[u8] = b"msettled";
/// Which slots the group owns, as far as that ever changed.
pub(super) const SLOTS: &[u8] = b"mslots";
/// All removals from slots that left.
pub(super) const REMOVALS: &[u8] = b"d";
/// All collections.
pub(super) const COLLECTIONS: &[u8] = b"c";
/// All answers.
pub(super) const ANSWERS: &[u8] = b"q";

fn join(prefix: u8, uid: u64, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + rest.len());
    key.push(prefix);
    key.extend(uid.to_be_bytes());
    key.extend(rest);
    key
}

pub(super) fn collection(uid: u64) -> Vec<u8> {
    join(b'c', uid, &[])
}
pub(super) fn id(uid: u64, id: &str) -> Vec<u8> {
    join(b'i', uid, id.as_bytes())
}
pub(super) fn record(uid: u64, key: RecordKey) -> Vec<u8> {
    join(b'r', uid, &key.to_be_bytes())
}
pub(super) fn embedding(uid: u64, key: RecordKey) -> Vec<u8> {
    join(b'v', uid, &key.to_be_bytes())
}
pub(super) fn tombstone(uid: u64, key: RecordKey) -> Vec<u8> {
    join(b't', uid, &key.to_be_bytes())
}
pub(super) fn answer(index: u64, place: u32) -> Vec<u8> {
    let mut key = ANSWERS.to_vec();
    key.extend(index.to_be_bytes());
    if place > 0 {
        key.extend(place.to_be_bytes());
    }
    key
}
pub(super) fn removal(move_id: u64, uid: u64, key: RecordKey) -> Vec<u8> {
    let mut table_key = removals_in(move_id, uid);
    table_key.extend(key.to_be_bytes());
    table_key
}

/// All removals from a collection during one move of slots.
pub(super) fn removals_in(move_id: u64, uid: u64) -> Vec<u8> {
    join(b'd', move_id, &uid.to_be_bytes())
}
/// All removals during one move of slots.
pub(super) fn removals(move_id: u64) -> Vec<u8> {
    join(b'd', move_id, &[])
}

/// All records of a collection.
pub(super) fn records(uid: u64) -> Vec<u8> {
    join(b'r', uid, &[])
}
/// All tombstones of a collection.
pub(super) fn tombstones(uid: u64) -> Vec<u8> {
    join(b't', uid, &[])
}
/// All that belongs to a collection but its own entry.
pub(super) fn contents(uid: u64) -> [Vec<u8>; 4] {
    [b'i', b'r', b'v', b't'].map(|prefix| join(prefix, uid, &[]))
}

/// The record key at the end of a table key.
pub(super) fn trailing_key(table_key: &[u8]) -> Option<RecordKey> {
    table_key.last_chunk::<8>().map(|k| u64::from_be_bytes(*k))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_keys_grow_with_the_log() {
        assert!(record_key(7, 4095) < record_key(8, 0));
        assert_eq!(index_of(record_key(8, 4095)), 8);
        assert!(record(1, record_key(1, 0)) < record(1, record_key(256, 0)));
        assert_eq!(trailing_key(&record(3, 77)), Some(77));
    }
}
