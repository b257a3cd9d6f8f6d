//! Commands as they are proposed, and their outcomes as they come back.

use bytes::Bytes;
use omma_common::slot::slot_of;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{ImageCommand, ImageOutcome, ImageRefusal, PutRecord};
use prost::Message;

pub use super::keys::RECORDS_PER_COMMAND;

/// Bits of a part's fingerprint; its slot is above them.
const PART_BITS: u32 = 52;

/// A command for the log.
pub fn encode(request_id: &str, collection_uid: u64, command: Command) -> Bytes {
    ImageCommand { request_id: request_id.to_owned(), collection_uid, command: Some(command) }.encode_to_vec().into()
}

/// What a command did. Outcomes come from this process's own state machine: other bytes are a bug, shown as a refusal.
pub fn decode_outcome(outcome: &Bytes) -> ImageOutcome {
    ImageOutcome::decode(outcome.clone()).unwrap_or_else(|_| refused(ImageRefusal::Invalid))
}

/// Names what a caller asked for, so that a request id that is used again for something else is noticed: 16 bytes. An
/// embedding counts only if the caller sent it: two leaders may embed one picture differently in the last bit.
pub(super) fn fingerprint(command: &Command) -> Bytes {
    let mut hasher = blake3::Hasher::new();
    match command {
        Command::Put(put) => {
            add(&mut hasher, b"put");
            put.records.iter().for_each(|record| add_record(&mut hasher, record));
        }
        Command::Delete(delete) => {
            add(&mut hasher, b"delete");
            delete.ids.iter().for_each(|id| add(&mut hasher, id.as_bytes()));
        }
        Command::Drop(_) => add(&mut hasher, b"drop"),
        // These carry no request id.
        Command::StepSlots(_) | Command::Import(_) | Command::Purge(_) => {}
    }
    Bytes::copy_from_slice(&hasher.finalize().as_bytes()[..16])
}

fn add(hasher: &mut blake3::Hasher, bytes: &[u8]) {
    hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
}

fn add_record(hasher: &mut blake3::Hasher, record: &PutRecord) {
    add(hasher, record.id.as_bytes());
    add(hasher, &record.content_digest);
    add(hasher, if record.content_digest.is_empty() { &record.embedding } else { &[] });
    add(hasher, &record.attributes.len().to_le_bytes());
    for (name, value) in &record.attributes {
        add(hasher, name.as_bytes());
        add(hasher, &value.encode_to_vec());
    }
}

/// The slot of a part.
pub(super) fn slot_of_part(part: u64) -> u16 {
    (part >> PART_BITS) as u16
}

/// Names what a caller asked for, image by image: the slot, then a fingerprint as in [`fingerprint`]. So that a retry is
/// known after its images went to different groups.
pub(super) fn parts(command: &Command) -> Vec<u64> {
    match command {
        Command::Put(put) => {
            let of = |record: &PutRecord| part(b"put", &record.id, |hasher| add_record(hasher, record));
            put.records.iter().map(of).collect()
        }
        Command::Delete(delete) => {
            let of = |id: &String| part(b"delete", id, |hasher| add(hasher, id.as_bytes()));
            delete.ids.iter().map(of).collect()
        }
        _ => Vec::new(),
    }
}

fn part(kind: &[u8], id: &str, add_all: impl Fn(&mut blake3::Hasher)) -> u64 {
    let mut hasher = blake3::Hasher::new();
    add(&mut hasher, kind);
    add_all(&mut hasher);
    let hash = hasher.finalize();
    let hash = hash.as_bytes().first_chunk::<8>().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    (u64::from(slot_of(id)) << PART_BITS) | (hash >> (u64::BITS - PART_BITS))
}

/// The outcome of a command without effect.
pub(super) fn refused(why: ImageRefusal) -> ImageOutcome {
    ImageOutcome { refusal: why as i32, ..ImageOutcome::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::{DeleteRecords, PutRecords};
    use omma_proto::v1::AttributeValue;

    fn put(change: impl FnOnce(&mut PutRecord)) -> Bytes {
        let mut record = PutRecord {
            id: "a".into(),
            embedding: vec![1, 2, 3, 4].into(),
            content_digest: vec![7].into(),
            attributes: [("k".to_owned(), AttributeValue::default())].into(),
        };
        change(&mut record);
        fingerprint(&Command::Put(PutRecords { dimension: 1, records: vec![record], ..PutRecords::default() }))
    }

    #[test]
    fn whatever_the_caller_sent_counts_and_nothing_else() {
        let base = put(|_| {});
        assert_eq!(put(|r| r.embedding = vec![9; 4].into()), base, "a picture embedded elsewhere is the same picture");
        assert_ne!(put(|r| r.id = "b".into()), base);
        assert_ne!(put(|r| r.content_digest = vec![8].into()), base);
        assert_ne!(put(|r| r.attributes.clear()), base);
        let sent = put(|r| r.content_digest = Bytes::new());
        assert_ne!(sent, base);
        let other = put(|r| (r.content_digest, r.embedding) = (Bytes::new(), vec![9; 4].into()));
        assert_ne!(other, sent);
        let delete = |ids: &[&str]| {
            fingerprint(&Command::Delete(DeleteRecords { ids: ids.iter().map(|id| (*id).to_owned()).collect() }))
        };
        assert_ne!(delete(&["a", "b"]), delete(&["ab"]));
        assert_ne!(delete(&["a"]), base);
    }
}
