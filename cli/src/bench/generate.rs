//! Vectors out of a seed: unit vectors around random centres, as embeddings of pictures are.
//!
//! A row depends on the seed and its number alone: more rows, or other queries, leave those before as they are.

use omma_common::vector::normalise;

use super::matrix::Matrix;

/// What to make.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipe {
    pub(super) dimension: usize,
    /// Centres; row `i` is near centre `i % clusters`.
    pub(super) clusters: usize,
    /// Length of what is added to a centre, in lengths of the centre.
    pub(super) spread: f32,
    pub(super) seed: u64,
}

/// Numbers of different things never come from the same stream.
const CENTRES: u64 = 1 << 62;
const QUERIES: u64 = 1 << 61;

impl Recipe {
    /// The vectors to be stored.
    pub(super) fn base(&self, count: usize) -> Matrix {
        self.rows(count, 0)
    }

    /// Others of the same kind.
    pub(super) fn queries(&self, count: usize) -> Matrix {
        self.rows(count, QUERIES)
    }

    fn rows(&self, count: usize, from: u64) -> Matrix {
        let clusters = self.clusters.max(1) as u64;
        let centres: Vec<Vec<f32>> = (0..clusters).map(|c| Stream::of(self.seed, CENTRES + c).numbers(self)).collect();
        let mut numbers = Vec::with_capacity(count * self.dimension);
        for i in from..from + count as u64 {
            let mut stream = Stream::of(self.seed, i);
            let centre = &centres[(i % clusters) as usize];
            let mut row: Vec<f32> = centre.iter().map(|x| x + self.spread * stream.bell()).collect();
            // Fails for a zero vector only, and then once in an eternity.
            if normalise(&mut row, self.dimension).is_err() {
                row.fill(0.0);
                row[0] = 1.0;
            }
            numbers.append(&mut row);
        }
        Matrix { dimension: self.dimension, numbers }
    }
}

/// SplitMix64: the same numbers on every machine and in every version.
struct Stream(u64);

impl Stream {
    fn of(seed: u64, number: u64) -> Self {
        let mut seeds = Self(seed);
        Self(seeds.next() ^ number.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Nearly normal, with variance 1: the sum of four uniform numbers.
    fn bell(&mut self) -> f32 {
        let z = self.next();
        let quarters = (0..4).map(|i| ((z >> (16 * i)) & 0xFFFF) as f32 + 0.5);
        (quarters.sum::<f32>() / 65_536.0 - 2.0) * 3f32.sqrt()
    }

    fn numbers(&mut self, recipe: &Recipe) -> Vec<f32> {
        (0..recipe.dimension).map(|_| self.bell()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: Recipe = Recipe { dimension: 64, clusters: 5, spread: 0.5, seed: 7 };

    fn dot(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    #[test]
    fn rows_depend_on_seed_and_number_alone() {
        let (few, many) = (RECIPE.base(20), RECIPE.base(50));
        assert_eq!(few.numbers[..], many.numbers[..20 * 64]);
        assert_ne!(RECIPE.queries(20), few);
        assert_ne!(Recipe { seed: 8, ..RECIPE }.base(20), few);
        // A new version of this file must not change them: what was measured before could not be repeated.
        assert_eq!(Stream::of(7, 3).next(), 0x100D_3DB9_B776_9042);
    }

    #[test]
    fn rows_have_unit_length_and_neighbours_in_their_cluster() {
        let base = RECIPE.base(100);
        for i in 0..100 {
            assert!((dot(base.row(i), base.row(i)) - 1.0).abs() < 1e-5);
        }
        let mean = |distance: usize| (0..50).map(|i| dot(base.row(i), base.row(i + distance))).sum::<f32>() / 50.0;
        assert!((mean(5) - 0.8).abs() < 0.05, "1 / (1 + 0.5²) in one cluster: {}", mean(5));
        assert!(mean(1).abs() < 0.2, "nothing in common between two: {}", mean(1));
    }
}
