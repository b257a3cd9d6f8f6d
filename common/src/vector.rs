//! Embeddings as numbers and as bytes.

use bytes::Bytes;

/// Why a vector is no embedding.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InvalidVector {
    /// Wrong number of numbers.
    #[error("has {actual} numbers; the collection's dimension is {expected}")]
    Dimension {
        /// Of the vector space.
        expected: usize,
        /// Given.
        actual: usize,
    },
    /// NaN or infinite.
    #[error("has {value} at position {at}; every number must be finite")]
    NotFinite {
        /// The first offender.
        value: f32,
        /// Its position.
        at: usize,
    },
    /// All zeros, or so small or large that its direction is lost.
    #[error("has length {length}; a vector without a direction has no neighbours")]
    NoDirection {
        /// Its Euclidean length.
        length: f64,
    },
    /// Bytes that are no multiple of four.
    #[error("is {bytes} bytes long, which is no multiple of 4")]
    Ragged {
        /// Bytes given.
        bytes: usize,
    },
}

/// Scales `vector` to unit length, in place. `dimension` is what the collection has.
pub fn normalise(vector: &mut [f32], dimension: usize) -> Result<(), InvalidVector> {
    if vector.len() != dimension {
        return Err(InvalidVector::Dimension { expected: dimension, actual: vector.len() });
    }
    if let Some(at) = vector.iter().position(|x| !x.is_finite()) {
        return Err(InvalidVector::NotFinite { value: vector[at], at });
    }
    // In f64, so that neither large nor tiny numbers lose the length.
    let length = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    if length < f64::from(f32::MIN_POSITIVE) {
        return Err(InvalidVector::NoDirection { length });
    }
    for x in vector.iter_mut() {
        *x = (f64::from(*x) / length) as f32;
    }
    Ok(())
}

/// Packed little-endian f32: the format on the wire (that of a packed `repeated float`) and on disk.
pub fn to_bytes(vector: &[f32]) -> Bytes {
    let mut out = Vec::with_capacity(vector.len() * 4);
    out.extend(vector.iter().flat_map(|x| x.to_le_bytes()));
    Bytes::from(out)
}

/// The inverse of [`to_bytes`]. Checks only the length.
pub fn from_bytes(bytes: &[u8]) -> Result<Vec<f32>, InvalidVector> {
    let (numbers, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err(InvalidVector::Ragged { bytes: bytes.len() });
    }
    Ok(numbers.iter().map(|&b| f32::from_le_bytes(b)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn normalised_vectors_have_length_one(mut v in prop::collection::vec(-1e30f32..1e30, 1..64)) {
            prop_assume!(v.iter().any(|x| x.abs() > 1e-30));
            let n = v.len();
            normalise(&mut v, n).unwrap();
            let length: f64 = v.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>().sqrt();
            prop_assert!((length - 1.0).abs() < 1e-5);
        }

        #[test]
        fn bytes_round_trip(v in prop::collection::vec(any::<f32>(), 0..64)) {
            let back = from_bytes(&to_bytes(&v)).unwrap();
            prop_assert!(v.iter().zip(&back).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
    }

    #[test]
    fn what_has_no_direction_is_refused() {
        assert!(matches!(normalise(&mut [0.0, 0.0], 2), Err(InvalidVector::NoDirection { .. })));
        assert!(matches!(normalise(&mut [1.0, f32::NAN], 2), Err(InvalidVector::NotFinite { at: 1, .. })));
        assert!(matches!(normalise(&mut [f32::INFINITY, 0.0], 2), Err(InvalidVector::NotFinite { at: 0, .. })));
        assert_eq!(normalise(&mut [1.0], 2), Err(InvalidVector::Dimension { expected: 2, actual: 1 }));
        assert_eq!(from_bytes(&[0; 5]), Err(InvalidVector::Ragged { bytes: 5 }));
    }
}
