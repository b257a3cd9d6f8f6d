//! Merges the groups' hits into one answer. Pure.

use omma_common::topk::{Ranked, TopK};
use omma_proto::internal::v1::GroupHit;
use omma_proto::v1::Hit;

struct Candidate(GroupHit);

impl Ranked for Candidate {
    type Id = str;
    fn score(&self) -> f32 {
        self.0.score
    }
    fn id(&self) -> &str {
        &self.0.id
    }
}

/// What of the candidates one query wants.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Wanted {
    /// Hits at most.
    pub(crate) k: usize,
    /// No hit below it.
    pub(crate) min_score: Option<f32>,
    /// The query's own image.
    pub(crate) not: Option<String>,
}

/// The best hits over all groups: by score, then by id.
pub(crate) fn merge(wanted: &Wanted, partials: impl IntoIterator<Item = Vec<GroupHit>>) -> Vec<Hit> {
    let mut top = TopK::new(wanted.k);
    let kept = |hit: &GroupHit| {
        wanted.min_score.is_none_or(|least| hit.score >= least) && wanted.not.as_ref().is_none_or(|id| *id != hit.id)
    };
    top.extend(partials.into_iter().flatten().filter(kept).map(Candidate));
    let hits = top.into_sorted().into_iter();
    hits.map(|Candidate(h)| Hit { id: h.id, score: h.score, attributes: h.attributes }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hit(id: u32, score: f32) -> GroupHit {
        GroupHit { id: format!("{id:04}"), score, ..Default::default() }
    }

    proptest! {
        #[test]
        fn equals_sorting_everything(
            scores in prop::collection::vec(prop_oneof![-1f32..1.0, Just(0.5)], 0..200),
            groups in 1usize..6, k in 1usize..30, least in prop::option::of(-1f32..1.0), not in 0u32..200,
        ) {
            let all: Vec<_> = (0..).zip(&scores).map(|(i, s)| hit(i, *s)).collect();
            let wanted = Wanted { k, min_score: least, not: Some(format!("{not:04}")) };
            let partials = (0..groups).map(|g| {
                // Each group sends its own best k + 1, one of which may be the query's own image.
                let mut part: Vec<_> = all.iter().enumerate().filter(|(i, _)| i % groups == g).map(|(_, h)| h.clone()).collect();
                part.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
                part.truncate(k + 1);
                part
            });
            let got: Vec<_> = merge(&wanted, partials).into_iter().map(|h| h.id).collect();
            let mut want: Vec<_> = all.iter().filter(|h| least.is_none_or(|l| h.score >= l) && Some(&h.id) != wanted.not.as_ref()).collect();
            want.sort_by(|a, b| b.score.total_cmp(&a.score).then(a.id.cmp(&b.id)));
            prop_assert_eq!(got, want.iter().take(k).map(|h| h.id.clone()).collect::<Vec<_>>());
        }
    }
}
