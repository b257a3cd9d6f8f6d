//! The k best of many, in one total order, so that the same query gives the same answer on any coordinator.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// Higher scores first (NaN last), then smaller ids.
pub fn rank<I: Ord + ?Sized>(a_score: f32, a_id: &I, b_score: f32, b_id: &I) -> Ordering {
    match (a_score.is_nan(), b_score.is_nan()) {
        (false, true) => Ordering::Less,
        (true, false) => Ordering::Greater,
        (true, true) => a_id.cmp(b_id),
        // `==` first: 0.0 and -0.0 are the same score.
        (false, false) if a_score == b_score => a_id.cmp(b_id),
        (false, false) => b_score.total_cmp(&a_score),
    }
}

/// Something with a score and an id.
pub trait Ranked {
    /// What breaks ties.
    type Id: Ord + ?Sized;
    /// Higher is better.
    fn score(&self) -> f32;
    /// Unique among what is ranked.
    fn id(&self) -> &Self::Id;
}

impl<I: Ord> Ranked for (I, f32) {
    type Id = I;
    fn score(&self) -> f32 {
        self.1
    }
    fn id(&self) -> &I {
        &self.0
    }
}

/// Orders by rank: the heap's top is the worst that is kept.
struct Worst<T>(T);

impl<T: Ranked> Ord for Worst<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        rank(self.0.score(), self.0.id(), other.0.score(), other.0.id())
    }
}
impl<T: Ranked> PartialOrd for Worst<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<T: Ranked> PartialEq for Worst<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl<T: Ranked> Eq for Worst<T> {}

/// Keeps the `k` best of what is pushed, in memory for `k`.
pub struct TopK<T> {
    k: usize,
    heap: BinaryHeap<Worst<T>>,
}

impl<T: Ranked> TopK<T> {
    /// Keeps `k`; with 0, nothing.
    pub fn new(k: usize) -> Self {
        // The caller's k is bounded, but candidates may be far fewer.
        Self { k, heap: BinaryHeap::with_capacity(k.min(1024)) }
    }

    /// Offers one candidate.
    pub fn push(&mut self, item: T) {
        if self.heap.len() < self.k {
            self.heap.push(Worst(item));
            return;
        }
        if let Some(mut worst) = self.heap.peek_mut() {
            let item = Worst(item);
            if item < *worst {
                *worst = item;
            }
        }
    }

    /// The score that a candidate must reach to be kept; `None` while there is room.
    pub fn floor(&self) -> Option<f32> {
        (self.heap.len() == self.k).then(|| self.heap.peek().map(|w| w.0.score())).flatten()
    }

    /// Best first.
    pub fn into_sorted(self) -> Vec<T> {
        self.heap.into_sorted_vec().into_iter().map(|w| w.0).collect()
    }
}

impl<T: Ranked> Extend<T> for TopK<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        items.into_iter().for_each(|item| self.push(item));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sorted(mut all: Vec<(u32, f32)>, k: usize) -> Vec<(u32, f32)> {
        all.sort_by(|a, b| rank(a.1, &a.0, b.1, &b.0));
        all.truncate(k);
        all
    }

    proptest! {
        #[test]
        fn equals_sort(scores in prop::collection::vec(prop_oneof![-1f32..1.0, Just(0.0), Just(-0.0), Just(f32::NAN)], 0..200), k in 0usize..50) {
            let all: Vec<(u32, f32)> = (0..).zip(scores).collect();
            let mut top = TopK::new(k);
            top.extend(all.iter().copied());
            let (got, want) = (top.into_sorted(), sorted(all, k));
            prop_assert_eq!(got.iter().map(|h| h.0).collect::<Vec<_>>(), want.iter().map(|h| h.0).collect::<Vec<_>>());
        }

        #[test]
        fn merging_partials_equals_the_whole(scores in prop::collection::vec(-1f32..1.0, 0..200), k in 1usize..20, parts in 1usize..8) {
            let all: Vec<(u32, f32)> = (0..).zip(scores).collect();
            let mut merged = TopK::new(k);
            for part in 0..parts {
                let mut top = TopK::new(k);
                top.extend(all.iter().copied().filter(|h| h.0 as usize % parts == part));
                merged.extend(top.into_sorted());
            }
            prop_assert_eq!(merged.into_sorted(), sorted(all, k));
        }
    }

    #[test]
    fn the_floor_is_the_worst_kept() {
        let mut top = TopK::new(2);
        top.push((1u32, 0.5));
        assert_eq!(top.floor(), None);
        top.extend([(2, 0.9), (3, 0.7)]);
        assert_eq!(top.floor(), Some(0.7));
    }
}
