//! Random embeddings from a seed that every test prints.

use crate::note;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Names the seed of a run that is to be repeated.
pub const SEED_VARIABLE: &str = "OMMA_TEST_SEED";

/// This run's seed: `OMMA_TEST_SEED` if set, else drawn. Printed, so that a failure can be repeated.
pub fn seed(test: &str) -> u64 {
    let given = std::env::var(SEED_VARIABLE).ok().and_then(|v| v.parse().ok());
    let seed = given.unwrap_or_else(|| rand::rng().random());
    note!("{test}: {SEED_VARIABLE}={seed}");
    seed
}

/// A generator for part `part` of a run: parts do not depend on how many numbers another one draws.
pub fn generator(seed: u64, part: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ part.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// A vector of `dimension` numbers, uniform on the unit sphere.
pub fn unit_vector(rng: &mut StdRng, dimension: usize) -> Vec<f32> {
    loop {
        let v: Vec<f32> = (0..dimension).map(|_| normal(rng)).collect();
        let length = v.iter().map(|x| x * x).sum::<f32>().sqrt();
        if length > 1e-3 {
            return v.iter().map(|x| x / length).collect();
        }
    }
}

/// Standard normal, by Box and Muller.
fn normal(rng: &mut StdRng) -> f32 {
    let (u, v): (f32, f32) = (rng.random_range(f32::EPSILON..1.0), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_vectors_of_unit_length() {
        let a = unit_vector(&mut generator(7, 1), 64);
        assert_eq!(a, unit_vector(&mut generator(7, 1), 64));
        assert_ne!(a, unit_vector(&mut generator(7, 2), 64));
        assert!((a.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
    }
}
