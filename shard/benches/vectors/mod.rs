//! What the benches share: embeddings out of a seed.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

/// `count` unit vectors around a hundred centres.
pub(crate) fn clustered(seed: u64, count: usize, dimension: usize) -> Vec<Vec<f32>> {
    const CLUSTERS: usize = 100;
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut normal = || (0..4).map(|_| rng.random_range(-1.0f32..1.0)).sum::<f32>();
    let centres: Vec<Vec<f32>> = (0..CLUSTERS).map(|_| (0..dimension).map(|_| normal()).collect()).collect();
    let point = |i: usize| {
        let mut v: Vec<f32> = centres[i % CLUSTERS].iter().map(|x| x + 0.5 * normal()).collect();
        omma_common::vector::normalise(&mut v, dimension).expect("a direction");
        v
    };
    (0..count).map(point).collect()
}
