//! Vectors of one dimension, back to back.

use omma_common::vector::normalise;

/// Rows of `dimension` numbers each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Matrix {
    pub(super) dimension: usize,
    pub(super) numbers: Vec<f32>,
}

impl Matrix {
    pub(super) fn rows(&self) -> usize {
        self.numbers.len().checked_div(self.dimension).unwrap_or(0)
    }

    /// Row `i`, which must exist.
    pub(super) fn row(&self, i: usize) -> &[f32] {
        &self.numbers[i * self.dimension..(i + 1) * self.dimension]
    }

    /// Keeps the first `count` rows, and returns the others.
    pub(super) fn split_off(&mut self, count: usize) -> Self {
        let at = count.min(self.rows()) * self.dimension;
        Self { dimension: self.dimension, numbers: self.numbers.split_off(at) }
    }

    /// Scales every row to unit length, as the cluster does; names the first that has no direction.
    pub(super) fn normalise(&mut self) -> Result<(), String> {
        let dimension = self.dimension;
        for (i, row) in self.numbers.chunks_exact_mut(dimension.max(1)).enumerate() {
            normalise(row, dimension).map_err(|why| format!("vector {i} {why}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_split_and_scaled() {
        let mut base = Matrix { dimension: 2, numbers: vec![3.0, 4.0, 0.0, 2.0, 5.0, 0.0] };
        let rest = base.split_off(2);
        assert_eq!((base.rows(), rest.rows(), rest.row(0)), (2, 1, &[5.0, 0.0][..]));
        base.normalise().unwrap();
        assert_eq!((base.row(0), base.row(1)), (&[0.6, 0.8][..], &[0.0, 1.0][..]));
        let error = Matrix { dimension: 2, numbers: vec![1.0, 0.0, 0.0, 0.0] }.normalise().unwrap_err();
        assert!(error.starts_with("vector 1 has length 0"), "{error}");
        assert_eq!(Matrix::default().rows(), 0);
    }
}
