//! Commands as they are proposed, and their outcomes as they come back.

use bytes::Bytes;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{ImageCommand, ImageOutcome, ImageRefusal};
use prost::Message;

pub use super::keys::RECORDS_PER_COMMAND;

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
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    match command {
        Command::Put(put) => {
            add(b"put");
            for record in &put.records {
                add(record.id.as_bytes());
                add(&record.content_digest);
                add(if record.content_digest.is_empty() { &record.embedding } else { &[] });
                add(&record.attributes.len().to_le_bytes());
                for (name, value) in &record.attributes {
                    add(name.as_bytes());
                    add(&value.encode_to_vec());
                }
            }
        }
        Command::Delete(delete) => {
            add(b"delete");
            delete.ids.iter().for_each(|id| add(id.as_bytes()));
        }
        Command::Drop(_) => add(b"drop"),
    }
    Bytes::copy_from_slice(&hasher.finalize().as_bytes()[..16])
}

/// The outcome of a command without effect.
pub(super) fn refused(why: ImageRefusal) -> ImageOutcome {
    ImageOutcome { refusal: why as i32, ..ImageOutcome::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::{DeleteRecords, PutRecord, PutRecords};
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
