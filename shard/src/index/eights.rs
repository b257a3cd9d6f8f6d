//! Embeddings in eight bits a number. The engine would do it, too, but it cuts towards zero and scales to the range from
//! −1 to 1, of which the numbers of a unit vector with many dimensions use a few hundredths.

/// Largest eight-bit number in use: its negative exists, too.
const MOST: f32 = 127.0;
/// Numbers farther from zero than so many times their mean square are cut off: rare, and ranking by the exact embeddings
/// makes up for it.
const DEVIATIONS: f32 = 8.0;

/// How far a score in eight bits is from the exact one, all but never more: six standard deviations of the sum of
/// `dimension` independent errors of rounding, in both of a product's factors. It does not hold for embeddings with numbers
/// that are cut off, or with few different ones, all rounded the same way.
pub(super) fn error(dimension: usize) -> f32 {
    // A rounded number is off by one evenly distributed over a step: its variance is a twelfth of the step squared.
    const OF_ROUNDING: f32 = 0.408_248_3; // sqrt(2 / 12)
    6.0 * OF_ROUNDING / Eights::new(dimension).scale
}

/// Between numbers and eight bits; depends on the dimension alone, so that a graph can be extended by any process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Eights {
    scale: f32,
}

impl Eights {
    /// For unit vectors: their numbers have a mean square of 1 / dimension.
    pub(super) fn new(dimension: usize) -> Self {
        Self { scale: MOST * ((dimension as f32).sqrt() / DEVIATIONS).max(1.0) }
    }

    pub(super) fn from(self, embedding: &[f32]) -> Vec<i8> {
        embedding.iter().map(|x| (x * self.scale).round().clamp(-MOST, MOST) as i8).collect()
    }

    /// Writes what the eight bits stand for into `row`.
    pub(super) fn write(self, eights: &[i8], row: &mut [f32]) {
        row.iter_mut().zip(eights).for_each(|(x, &eight)| *x = f32::from(eight) / self.scale);
    }

    /// The inner product of an embedding with itself, as a graph in eight bits has it.
    pub(super) fn own(self, embedding: &[f32]) -> f32 {
        let product: i32 = self.from(embedding).into_iter().map(|x| i32::from(x) * i32::from(x)).sum();
        self.score(product as f32)
    }

    /// The inner product of two embeddings by that of their eight-bit numbers.
    pub(super) fn score(self, product: f32) -> f32 {
        product / (self.scale * self.scale)
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::super::suite::clustered;
    use super::*;

    #[test]
    fn products_are_nearly_those_of_the_embeddings() {
        for dimension in [3, 48, 512, 2048] {
            let vectors = clustered(&mut SmallRng::seed_from_u64(5), 60, dimension, 6);
            let eights = Eights::new(dimension);
            let small: Vec<Vec<i8>> = vectors.iter().map(|v| eights.from(v)).collect();
            for i in 1..60 {
                let product: i32 = small[0].iter().zip(&small[i]).map(|(&a, &b)| i32::from(a) * i32::from(b)).sum();
                let (score, exact) = (eights.score(product as f32), crate::index::dot(&vectors[0], &vectors[i]));
                assert!((score - exact).abs() < error(dimension), "dimension {dimension}: {score} for {exact}");
                let mut row = vec![0.0; dimension];
                eights.write(&small[i], &mut row);
                assert!((crate::index::dot(&vectors[0], &row) - exact).abs() < error(dimension));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_cut_off() {
        let eights = Eights::new(256);
        let mut one = vec![0.0; 256];
        (one[0], one[1]) = (1.0, -1.0);
        assert_eq!(eights.from(&one)[..3], [127, -127, 0]);
    }
}
