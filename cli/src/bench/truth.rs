//! What exact search finds, and how much of it was found.

use std::collections::{HashMap, HashSet};

use omma_common::topk::TopK;
use omma_shard::index::dot;

use super::matrix::Matrix;

/// Rows that are compared with all queries before the next ones are: they stay in the processor's cache.
const BLOCK: usize = 256;
/// Scores so near are the same: the cluster's arithmetic may round otherwise.
const EQUAL: f32 = 1e-5;

/// The exact answers to all queries.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) k: usize,
    /// Of each query: the score of its `k`-th best, or of its worst if there are fewer.
    worst: Vec<f32>,
    /// Hits that an answer can have.
    expected: usize,
    stored: Matrix,
    queries: Matrix,
    rows: HashMap<String, usize>,
}

impl Truth {
    /// Compares all queries with all stored vectors, on all cores; blocks. `ids` are those of the stored vectors.
    pub(super) fn find(stored: Matrix, ids: impl Iterator<Item = String>, queries: Matrix, k: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let part = queries.rows().div_ceil(cores).max(1);
        let all: Vec<usize> = (0..queries.rows()).collect();
        let worst = std::thread::scope(|scope| {
            let (stored, queries) = (&stored, &queries);
            let running: Vec<_> =
                all.chunks(part).map(|part| scope.spawn(move || worst_scores(stored, queries, part, k))).collect();
            // A thread that panicked has no scores, and its queries count as not known.
            running.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect()
        });
        let rows = ids.enumerate().map(|(row, id)| (id, row)).collect();
        Self { k, worst, expected: k.min(stored.rows()), stored, queries, rows }
    }

    /// The share of the exact answer to query `i` that `ids` have. An image that is as near as the worst of the exact
    /// answer is as good. `None` if the exact answer is not known.
    pub(super) fn recall<'a>(&self, i: usize, ids: impl Iterator<Item = &'a str>) -> Option<f64> {
        let (worst, query) = (*self.worst.get(i)?, self.queries.row(i));
        let found: HashSet<usize> = ids
            .filter_map(|id| self.rows.get(id).copied())
            .filter(|&row| dot(query, self.stored.row(row)) >= worst - EQUAL)
            .collect();
        Some(found.len().min(self.expected) as f64 / self.expected.max(1) as f64)
    }
}

fn worst_scores(stored: &Matrix, queries: &Matrix, which: &[usize], k: usize) -> Vec<f32> {
    let mut best: Vec<TopK<(u32, f32)>> = which.iter().map(|_| TopK::new(k)).collect();
    for block in (0..stored.rows()).step_by(BLOCK) {
        let rows = block..(block + BLOCK).min(stored.rows());
        for (best, &query) in best.iter_mut().zip(which) {
            let query = queries.row(query);
            rows.clone().for_each(|row| best.push((row as u32, dot(query, stored.row(row)))));
        }
    }
    best.into_iter().map(|best| best.into_sorted().last().map_or(f32::NEG_INFINITY, |(_, score)| *score)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::generate::Recipe;
    use super::*;

    fn ids(n: usize) -> impl Iterator<Item = String> {
        (0..n).map(|i| format!("v{i}"))
    }

    #[test]
    fn recall_is_the_share_of_the_best() {
        let recipe = Recipe { dimension: 16, clusters: 7, spread: 0.5, seed: 1 };
        let (stored, queries) = (recipe.base(700), recipe.queries(9));
        let truth = Truth::find(stored.clone(), ids(700), queries.clone(), 10);
        for i in 0..9 {
            let mut scored: Vec<(f32, usize)> =
                (0..700).map(|row| (dot(queries.row(i), stored.row(row)), row)).collect();
            scored.sort_by(|a, b| b.0.total_cmp(&a.0));
            let names: Vec<String> = scored.iter().map(|(_, row)| format!("v{row}")).collect();
            let of = |range: std::ops::Range<usize>| truth.recall(i, names[range].iter().map(String::as_str)).unwrap();
            assert_eq!((of(0..10), of(0..7), of(5..15), of(300..310)), (1.0, 0.7, 0.5, 0.0), "query {i}");
            let twice = std::iter::repeat_n(names[0].as_str(), 10);
            assert_eq!(truth.recall(i, twice), Some(0.1), "the same one ten times is one");
        }
        assert_eq!(truth.recall(9, std::iter::empty()), None);
    }

    #[test]
    fn equals_are_as_good_and_few_are_enough() {
        let stored = Matrix { dimension: 2, numbers: vec![1.0, 0.0, 1.0, 0.0, 0.0, 1.0] };
        let queries = Matrix { dimension: 2, numbers: vec![1.0, 0.0] };
        let truth = Truth::find(stored.clone(), ids(3), queries.clone(), 1);
        assert_eq!((truth.recall(0, ["v1"].into_iter()), truth.recall(0, ["v2"].into_iter())), (Some(1.0), Some(0.0)));
        let truth = Truth::find(stored, ids(3), queries, 10);
        assert_eq!(truth.recall(0, ["v0", "v1", "v2", "unknown"].into_iter()), Some(1.0));
    }
}
