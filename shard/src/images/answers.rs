//! Answers to requests that carried a request id, so that a retry has no second effect and is answered as the first.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;
use omma_proto::internal::v1::StoredAnswer;

/// Answers kept per group. A retry comes within seconds; this many requests take longer than that. Part of the
/// replicated state's meaning: replicas must forget at the same moment, so it is no setting.
pub(super) const KEPT: usize = 1 << 16;

/// The newest [`KEPT`] answers, by collection and request id.
#[derive(Debug, Default, Clone)]
pub(super) struct Answers {
    by_request: HashMap<(u64, String), Bytes>,
    oldest_first: VecDeque<StoredAnswer>,
}

impl Answers {
    /// What a request with this id was answered; `None` if it is new. Requests without an id are always new.
    pub(super) fn get(&self, uid: u64, request_id: &str) -> Option<Bytes> {
        if request_id.is_empty() {
            return None;
        }
        self.by_request.get(&(uid, request_id.to_owned())).cloned()
    }

    /// Keeps an answer; returns the log index of the one that is forgotten for it.
    pub(super) fn keep(&mut self, answer: StoredAnswer) -> Option<u64> {
        self.by_request.insert((answer.collection_uid, answer.request_id.clone()), answer.outcome.clone());
        self.oldest_first.push_back(answer);
        if self.oldest_first.len() <= KEPT {
            return None;
        }
        let oldest = self.oldest_first.pop_front()?;
        self.by_request.remove(&(oldest.collection_uid, oldest.request_id));
        Some(oldest.index)
    }

    /// All, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &StoredAnswer> {
        self.oldest_first.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(index: u64) -> StoredAnswer {
        StoredAnswer { index, collection_uid: 1, request_id: format!("r{index}"), outcome: Bytes::from(vec![1]) }
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut answers = Answers::default();
        for index in 1..=KEPT as u64 {
            assert_eq!(answers.keep(answer(index)), None);
        }
        assert!(answers.get(1, "r1").is_some() && answers.get(2, "r1").is_none());
        assert_eq!(answers.keep(answer(KEPT as u64 + 1)), Some(1));
        assert!(answers.get(1, "r1").is_none() && answers.get(1, "r2").is_some());
        assert_eq!(answers.iter().count(), KEPT);
    }

    #[test]
    fn no_id_is_always_new() {
        let mut answers = Answers::default();
        answers.keep(StoredAnswer { index: 1, ..StoredAnswer::default() });
        assert_eq!(answers.get(0, ""), None);
    }
}
