//! Embeddings in eight bits a number, each with a scale of its own: its largest number becomes 127. The engine's cosine does
//! not ask for lengths, so nobody needs to know the scales, and nothing is ever cut off. (The engine would make eight bits
//! itself, but cuts towards zero, and scales to the range from −1 to 1, of which the numbers of a unit vector with many
//! dimensions use a few hundredths. One scale for all, with products in place of cosines, is a fifth to a third quicker; but
//! where one number in each embedding is most of its length, cut off for the others' sake, it found 0.74 of the ten best.)

use super::dot;

/// Largest eight-bit number in use: its negative exists, too.
const MOST: f32 = 127.0;

pub(super) fn from(embedding: &[f32]) -> Vec<i8> {
    let scale = MOST / largest(embedding).max(f32::MIN_POSITIVE);
    embedding.iter().map(|x| (x * scale).round().clamp(-MOST, MOST) as i8).collect()
}

/// Writes what the eight bits stand for into `row`, of unit length.
pub(super) fn write(eights: &[i8], row: &mut [f32]) {
    row.iter_mut().zip(eights).for_each(|(x, &eight)| *x = f32::from(eight));
    let length = dot(row, row).sqrt().max(f32::MIN_POSITIVE);
    row.iter_mut().for_each(|x| *x /= length);
}

/// How far the cosine of `query` with an embedding in eight bits is from the exact one, all but never more: six standard
/// deviations of a sum of independent errors of rounding, in both of a product's factors, for embeddings whose largest
/// number is up to half as large again as the query's. It does not hold for others, or where few different numbers are all
/// rounded the same way.
pub(super) fn error(query: &[f32]) -> f32 {
    // A rounded number is off by one evenly distributed over a step: its variance is a twelfth of the step squared. Both
    // factors have unit length, so that the errors' variances add up to (1 + 1.5²) / 12 of the query's step squared.
    const OF_STEP: f32 = 0.520_416_5;
    6.0 * OF_STEP * largest(query) / MOST
}

fn largest(embedding: &[f32]) -> f32 {
    embedding.iter().fold(0.0, |most, x| x.abs().max(most))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::super::suite::clustered;
    use super::*;

    #[test]
    fn cosines_are_nearly_those_of_the_embeddings() {
        for dimension in [3, 48, 512, 2048] {
            let vectors = clustered(&mut SmallRng::seed_from_u64(5), 60, dimension, 6);
            let mut rows = vec![vec![0.0; dimension]; vectors.len()];
            rows.iter_mut().zip(&vectors).for_each(|(row, v)| write(&from(v), row));
            for (row, vector) in rows.iter().zip(&vectors).skip(1) {
                let (score, exact) = (dot(&rows[0], row), dot(&vectors[0], vector));
                assert!((score - exact).abs() < error(&vectors[0]), "dimension {dimension}: {score} for {exact}");
            }
        }
    }

    #[test]
    fn nothing_is_cut_off_and_zero_stays_zero() {
        let mut one = vec![0.01; 256];
        (one[0], one[1]) = (0.7, -0.7);
        assert_eq!(from(&one)[..3], [127, -127, 2]);
        assert_eq!(from(&[0.0; 4]), [0; 4]);
        let mut row = [1.0; 4];
        write(&[0; 4], &mut row);
        assert_eq!(row, [0.0; 4]);
    }
}
