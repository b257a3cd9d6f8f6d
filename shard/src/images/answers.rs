//! Answers to requests that carried a request id, so that a retry has no second effect and is answered as the first.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use omma_proto::internal::v1::StoredAnswer;

use crate::broken;

/// Answers kept per group. A retry comes within seconds; this many requests take longer than that. Part of the
/// replicated state's meaning: replicas must forget at the same moment, so it is no setting.
pub(super) const KEPT: usize = 1 << 16;

/// Whether `answer` is one to a request for this.
pub(super) fn fits(answer: &StoredAnswer, fingerprint: &Bytes) -> bool {
    answer.fingerprint.is_empty() || answer.fingerprint == fingerprint
}

/// The newest [`KEPT`] answers of this group's own, and as many that came with slots from other groups, by collection and
/// request id. Apart, so that slots that arrive do not make the group forget what it has answered.
#[derive(Debug, Default, Clone)]
pub(super) struct Answers {
    /// Several under one id: parts of a request that went to several groups, whose slots came together since.
    by_request: HashMap<(u64, String), Vec<Arc<StoredAnswer>>>,
    /// Oldest first.
    own: VecDeque<Arc<StoredAnswer>>,
    /// Oldest first.
    imported: VecDeque<Arc<StoredAnswer>>,
    /// By log index: answers that came with a snapshot, to entries that this replica has yet to apply.
    foreseen: BTreeMap<u64, StoredAnswer>,
}

impl Answers {
    /// What requests with this id were answered; nothing if it is new. Requests without an id are always new.
    pub(super) fn get(&self, uid: u64, request_id: &str) -> &[Arc<StoredAnswer>] {
        if request_id.is_empty() || broken::forgets(request_id) {
            return &[];
        }
        self.by_request.get(&(uid, request_id.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// Keeps an answer; returns log index and place of the one that is forgotten for it.
    pub(super) fn keep(&mut self, answer: StoredAnswer) -> Option<(u64, u32)> {
        let answer = Arc::new(answer);
        self.by_request.entry((answer.collection_uid, answer.request_id.clone())).or_default().push(answer.clone());
        let kind = if answer.place == 0 { &mut self.own } else { &mut self.imported };
        kind.push_back(answer);
        if kind.len() <= KEPT {
            return None;
        }
        let oldest = kind.pop_front()?;
        if let Entry::Occupied(mut entry) = self.by_request.entry((oldest.collection_uid, oldest.request_id.clone())) {
            entry.get_mut().retain(|answer| !Arc::ptr_eq(answer, &oldest));
            if entry.get().is_empty() {
                entry.remove();
            }
        }
        Some((oldest.index, oldest.place))
    }

    /// Notes what was answered to an entry that is still to be applied here.
    pub(super) fn foresee(&mut self, answer: StoredAnswer) {
        // An import brings its answers again when it is applied.
        if answer.place == 0 {
            self.foreseen.insert(answer.index, answer);
        }
    }

    /// Those to entries after `index` that are applied here, oldest first.
    pub(super) fn applied_after(&self, index: u64) -> impl Iterator<Item = &StoredAnswer> {
        let after = |kind: &VecDeque<Arc<StoredAnswer>>| kind.partition_point(|answer| answer.index <= index);
        merged(self.own.range(after(&self.own)..), self.imported.range(after(&self.imported)..))
    }

    /// What the entry at `index` was answered where it was applied first, if that is known.
    pub(super) fn take_foreseen(&mut self, index: u64) -> Option<Bytes> {
        self.foreseen.remove(&index).map(|answer| answer.outcome)
    }

    /// All to entries that are applied, oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &StoredAnswer> {
        merged(self.own.iter(), self.imported.iter())
    }

    /// Those to entries after `index`, applied here or not, oldest first.
    pub(super) fn after(&self, index: u64) -> Vec<StoredAnswer> {
        self.applied_after(index).chain(self.foreseen.values()).cloned().collect()
    }
}

/// Both, which are in order, in order.
fn merged<'a>(
    own: impl Iterator<Item = &'a Arc<StoredAnswer>>,
    imported: impl Iterator<Item = &'a Arc<StoredAnswer>>,
) -> impl Iterator<Item = &'a StoredAnswer> {
    let (mut own, mut imported) = (own.peekable(), imported.peekable());
    std::iter::from_fn(move || {
        let own_first = match (own.peek(), imported.peek()) {
            (Some(own), Some(imported)) => (own.index, own.place) <= (imported.index, imported.place),
            (own, _) => own.is_some(),
        };
        if own_first { own.next() } else { imported.next() }.map(Arc::as_ref)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(index: u64) -> StoredAnswer {
        let request_id = format!("r{index}");
        let (outcome, fingerprint) = (vec![1].into(), vec![2].into());
        StoredAnswer { index, collection_uid: 1, request_id, outcome, fingerprint, ..StoredAnswer::default() }
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut answers = Answers::default();
        for index in 1..=KEPT as u64 {
            assert_eq!(answers.keep(answer(index)), None);
        }
        assert!(answers.get(1, "r1").len() == 1 && answers.get(2, "r1").is_empty());
        // A part of the first request that came from elsewhere.
        let part = StoredAnswer { index: KEPT as u64 + 1, place: 1, ..answer(1) };
        assert_eq!(answers.keep(part), None);
        assert_eq!(answers.get(1, "r1").len(), 2);
        assert_eq!(answers.keep(answer(KEPT as u64 + 2)), Some((1, 0)));
        assert!(answers.get(1, "r1").len() == 1 && answers.get(1, "r2").len() == 1);
        assert_eq!(answers.iter().count(), KEPT + 1);
    }

    #[test]
    fn slots_that_arrive_do_not_make_a_group_forget() {
        let mut answers = Answers::default();
        answers.keep(answer(1));
        let arriving = |place| StoredAnswer { place, request_id: format!("of {place}"), ..answer(2) };
        for place in 1..=KEPT as u32 {
            assert_eq!(answers.keep(arriving(place)), None);
        }
        assert_eq!(answers.keep(arriving(KEPT as u32 + 1)), Some((2, 1)));
        answers.keep(answer(3));
        let in_order = |all: Vec<&StoredAnswer>| all.is_sorted_by_key(|a| (a.index, a.place));
        assert!(answers.get(1, "r1").len() == 1 && answers.get(1, "of 1").is_empty());
        assert!(in_order(answers.iter().collect()) && in_order(answers.applied_after(1).collect()));
        assert_eq!((answers.iter().count(), answers.applied_after(1).count()), (KEPT + 2, KEPT + 1));
    }

    #[test]
    fn what_is_foreseen_is_no_answer_yet() {
        let mut answers = Answers::default();
        answers.keep(answer(1));
        answers.keep(answer(2));
        answers.foresee(answer(3));
        answers.foresee(StoredAnswer { place: 1, ..answer(4) });
        assert!(answers.get(1, "r3").is_empty());
        assert_eq!(answers.iter().count(), 2);
        assert_eq!(answers.after(1), [answer(2), answer(3)]);
        assert_eq!(answers.take_foreseen(3), Some(answer(3).outcome));
        assert_eq!(answers.take_foreseen(3), None);
    }

    #[test]
    fn an_answer_fits_what_was_asked() {
        let mut answers = Answers::default();
        answers.keep(answer(1));
        answers.keep(StoredAnswer { fingerprint: Bytes::new(), ..answer(2) });
        let is_fit = |id, fingerprint: u8| fits(&answers.get(1, id)[0], &vec![fingerprint].into());
        assert_eq!((is_fit("r1", 2), is_fit("r1", 3), is_fit("r2", 3)), (true, false, true));
    }

    #[test]
    fn no_id_is_always_new() {
        let mut answers = Answers::default();
        answers.keep(StoredAnswer { index: 1, ..StoredAnswer::default() });
        assert!(answers.get(0, "").is_empty());
    }
}
