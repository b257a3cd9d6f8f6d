//! Answers a query that was answered once again, exactly, to see what the index missed.

use omma_common::topk::TopK;

use super::keys;
use super::query::ImageHit;
use super::records::{embeddings_from, key_of};
use super::state::ImageState;
use crate::group::state_machine::StateError;
use crate::index::{Candidate, dot};

/// A query and its answer.
#[derive(Debug, Clone)]
pub struct Answered {
    /// The collection.
    pub uid: u64,
    /// Unit length.
    pub query: Vec<f32>,
    /// Hits that were asked for.
    pub k: usize,
    /// The answer.
    pub hits: Vec<ImageHit>,
    /// The log index that was applied when it was answered, at least.
    pub applied: u64,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recall {
    /// Hits that the exact answer has.
    pub expected: usize,
    /// Those of them that the answer had, too; equal scores count as equal.
    pub found: usize,
}

/// Records looked at between two calls of `goes_on`.
const SLICE: usize = 64;

impl ImageState {
    /// Measures the recall of one answer by looking at every record; `None` if `goes_on`, which is asked now and then
    /// and may wait, says no. What was put or deleted since the answer does not count.
    pub fn recall(&self, answered: &Answered, mut goes_on: impl FnMut() -> bool) -> Result<Option<Recall>, StateError> {
        let contents = self.contents();
        if !contents.is_settled() {
            return Ok(None);
        }
        let mut top = TopK::new(answered.k);
        for (nth, entry) in embeddings_from(&contents.table, answered.uid, 0).enumerate() {
            if nth % SLICE == 0 && !goes_on() {
                return Ok(None);
            }
            let (key, embedding) = entry?;
            if keys::index_of(key) <= answered.applied && embedding.len() == answered.query.len() {
                top.push(Candidate { key, score: dot(&answered.query, &embedding), error: 0.0 });
            }
        }
        let mut scores = Vec::with_capacity(answered.hits.len());
        for hit in &answered.hits {
            let key = key_of(&contents.table, answered.uid, &hit.id)?;
            if key.is_some_and(|key| keys::index_of(key) <= answered.applied) {
                scores.push(hit.score);
            }
        }
        let gone = answered.hits.len() - scores.len();
        let exact: Vec<f32> = top.into_sorted().iter().map(|candidate| candidate.score).collect();
        Ok(Some(compare(&exact, &scores, answered.k.saturating_sub(gone))))
    }
}

/// `exact` best first; both hold scores. Of the exact answer only the best `k` are expected.
fn compare(exact: &[f32], answer: &[f32], k: usize) -> Recall {
    let exact = &exact[..exact.len().min(k)];
    let Some(least) = exact.last() else { return Recall { expected: 0, found: 0 } };
    let found = answer.iter().filter(|score| *score >= least).count();
    Recall { expected: exact.len(), found: found.min(exact.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misses_are_counted_and_ties_are_not_misses() {
        let of = |exact: &[f32], answer: &[f32], k| {
            let Recall { expected, found } = compare(exact, answer, k);
            (expected, found)
        };
        assert_eq!(of(&[0.9, 0.8, 0.7], &[0.9, 0.8, 0.7], 3), (3, 3));
        assert_eq!(of(&[0.9, 0.8, 0.7], &[0.9, 0.7, 0.6], 3), (3, 2));
        assert_eq!(of(&[0.9, 0.8, 0.8], &[0.9, 0.8, 0.8], 2), (2, 2));
        assert_eq!(of(&[0.9, 0.8, 0.7], &[0.9, 0.8], 2), (2, 2), "one hit was deleted since");
        assert_eq!(of(&[], &[], 3), (0, 0));
    }
}
