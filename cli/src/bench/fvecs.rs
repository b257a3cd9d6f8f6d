//! The `.fvecs` format of the public sets of vectors: each row is its dimension, a little-endian i32, and as many
//! little-endian f32.

use std::io::{self, BufRead, Write};

use super::matrix::Matrix;

/// Reads at most `most` rows.
pub(super) fn read(mut input: impl BufRead, most: usize) -> Result<Matrix, String> {
    let mut matrix = Matrix::default();
    let mut bytes = Vec::new();
    while matrix.rows() < most {
        let Some(dimension) = next_dimension(&mut input)? else { break };
        if matrix.dimension == 0 {
            matrix.dimension = dimension;
            bytes = vec![0; dimension * 4];
        }
        let row = matrix.rows();
        if dimension != matrix.dimension {
            return Err(format!("row {row} has {dimension} numbers, the first one {}", matrix.dimension));
        }
        input.read_exact(&mut bytes).map_err(|e| format!("row {row} is cut off: {e}"))?;
        matrix.numbers.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)));
    }
    Ok(matrix)
}

/// `None` at the end.
fn next_dimension(input: &mut impl BufRead) -> Result<Option<usize>, String> {
    if input.fill_buf().map_err(|e| e.to_string())?.is_empty() {
        return Ok(None);
    }
    let mut head = [0; 4];
    input.read_exact(&mut head).map_err(|e| format!("the last row is cut off: {e}"))?;
    let dimension = i32::from_le_bytes(head);
    let limit = omma_common::limits::MAX_DIMENSION;
    match u32::try_from(dimension) {
        Ok(dimension) if (1..=limit).contains(&dimension) => Ok(Some(dimension as usize)),
        _ => Err(format!("a row of {dimension} numbers (1 to {limit} can be): is this an .fvecs file?")),
    }
}

/// Writes all rows.
pub(super) fn write(mut output: impl Write, matrix: &Matrix) -> io::Result<()> {
    let head = u32::try_from(matrix.dimension).map_err(io::Error::other)?.to_le_bytes();
    for i in 0..matrix.rows() {
        output.write_all(&head)?;
        let bytes: Vec<u8> = matrix.row(i).iter().flat_map(|x| x.to_le_bytes()).collect();
        output.write_all(&bytes)?;
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> (Matrix, Vec<u8>) {
        let matrix = Matrix { dimension: 2, numbers: vec![1.0, -2.0, 0.5, 3.0, 7.0, 8.0] };
        let mut bytes = Vec::new();
        write(&mut bytes, &matrix).unwrap();
        (matrix, bytes)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (matrix, bytes) = three();
        assert_eq!(bytes[..8], [2, 0, 0, 0, 0, 0, 128, 63]);
        assert_eq!(read(&bytes[..], usize::MAX).unwrap(), matrix);
        assert_eq!(read(&bytes[..], 2).unwrap().numbers, matrix.numbers[..4]);
        assert_eq!(read(&[][..], 2).unwrap().rows(), 0);
    }

    #[test]
    fn damage_is_named() {
        let (_, mut bytes) = three();
        assert!(read(&bytes[..bytes.len() - 1], 9).unwrap_err().starts_with("row 2 is cut off"));
        assert!(read(&bytes[..14], 9).unwrap_err().starts_with("the last row is cut off"));
        bytes[12] = 3;
        assert_eq!(read(&bytes[..], 9).unwrap_err(), "row 1 has 3 numbers, the first one 2");
        for head in [0i32, -1, 100_000] {
            assert!(read(&head.to_le_bytes()[..], 1).unwrap_err().contains(".fvecs"), "{head}");
        }
    }
}
