//! Digests at certain applied indexes, so that replicas that are never at the same index at the same time can be
//! compared all the same.

use std::collections::{HashMap, VecDeque};

use super::state::ImageState;

/// Each replica notes its digest when it has applied an entry whose index is a multiple of this.
const EVERY: u64 = 64;
/// How many of them it remembers: a replica that is further behind is compared once it has caught up.
const KEPT: usize = 64;

/// A replica's digest at an applied index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mark {
    /// Log index of the newest entry that was applied then.
    pub applied: u64,
    /// Of all records then.
    pub digest: Vec<u8>,
}

/// Whether the digest at `index` is to be noted.
pub(super) fn is_marked(index: u64) -> bool {
    index.is_multiple_of(EVERY)
}

/// The newest marks, oldest first.
#[derive(Debug, Default)]
pub(super) struct Marks(VecDeque<Mark>);

impl Marks {
    pub(super) fn keep(&mut self, marks: impl IntoIterator<Item = Mark>) {
        self.0.extend(marks);
        self.0.drain(..self.0.len().saturating_sub(KEPT));
    }
}

impl ImageState {
    /// Digests at recent indexes and now, oldest first; none while the state is not exact (just after a snapshot).
    pub fn digests(&self) -> Vec<Mark> {
        let contents = self.contents();
        // Index and digest belong together.
        let _no_apply = contents.answers.lock();
        if !contents.is_settled() {
            return Vec::new();
        }
        let mut marks: Vec<Mark> = contents.marks.lock().0.iter().cloned().collect();
        let digest = contents.collections.digest(&HashMap::new()).to_bytes();
        marks.push(Mark { applied: contents.applied(), digest });
        marks
    }
}

/// How two replicas compare at the newest index that both know their digest of; `None` if there is none.
pub fn compare(ours: &[Mark], theirs: &[Mark]) -> Option<(u64, bool)> {
    let at = |index: u64| theirs.iter().find(|mark| mark.applied == index);
    let both = ours.iter().filter_map(|our| at(our.applied).map(|their| (our, their)));
    both.max_by_key(|(our, _)| our.applied).map(|(our, their)| (our.applied, our.digest == their.digest))
}

/// The index at which this replica is the one that is wrong: a majority of a group's `members` agree there with each other,
/// and not with it. `None` if there is no such index.
pub fn outvoted(ours: &[Mark], theirs: &[Vec<Mark>], members: usize) -> Option<u64> {
    let is_outvoted = |our: &&Mark| {
        let mut votes: HashMap<&[u8], usize> = HashMap::new();
        for their in theirs.iter().flatten().filter(|t| t.applied == our.applied && t.digest != our.digest) {
            *votes.entry(&their.digest).or_default() += 1;
        }
        votes.into_values().any(|agreeing| agreeing * 2 > members)
    };
    ours.iter().rfind(is_outvoted).map(|mark| mark.applied)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(applied: u64, digest: u8) -> Mark {
        Mark { applied, digest: vec![digest] }
    }

    #[test]
    fn the_newest_common_index_decides() {
        let ours = [mark(64, 1), mark(128, 2), mark(150, 3)];
        assert_eq!(compare(&ours, &[mark(64, 1), mark(128, 2), mark(149, 9)]), Some((128, true)));
        assert_eq!(compare(&ours, &[mark(64, 1), mark(128, 9)]), Some((128, false)));
        assert_eq!(compare(&ours, &[mark(150, 3)]), Some((150, true)));
        assert_eq!(compare(&ours, &[mark(149, 3)]), None);
        assert_eq!(compare(&ours, &[]), None);
    }

    #[test]
    fn a_majority_that_agrees_is_right() {
        let ours = [mark(64, 1), mark(128, 2)];
        let same = vec![mark(64, 1), mark(128, 2)];
        let other = vec![mark(64, 1), mark(128, 9)];
        assert_eq!(outvoted(&ours, &[other.clone(), other.clone()], 3), Some(128));
        assert_eq!(outvoted(&ours, &[other.clone(), same], 3), None, "the other one is wrong");
        assert_eq!(outvoted(&ours, std::slice::from_ref(&other), 3), None, "the third is not heard");
        assert_eq!(outvoted(&ours, &[other.clone(), vec![mark(128, 8)]], 3), None, "no two agree");
        assert_eq!(outvoted(&ours, std::slice::from_ref(&other), 2), None, "one against one");
        assert_eq!(outvoted(&ours, &[other.clone(), vec![mark(192, 9)]], 3), None, "not at the same index");
        assert_eq!(outvoted(&ours, &[], 1), None);
    }

    #[test]
    fn only_the_newest_are_kept() {
        let mut marks = Marks::default();
        (0..200).for_each(|n| marks.keep([mark(n, 0)]));
        assert_eq!((marks.0.len(), marks.0[0].applied), (KEPT, 200 - KEPT as u64));
    }
}
