//! NumPy's `.npy` format, as far as matrices of vectors need it: two dimensions (more are read as one row each), in C
//! order, of `f4`, `f8` or `u1`, little-endian.

use std::io::Read;

use super::matrix::Matrix;

const MAGIC: &[u8] = b"\x93NUMPY";
/// Longest header that makes sense.
const MAX_HEADER: usize = 64 << 10;

/// Reads at most `most` rows.
pub(super) fn read(mut input: impl Read, most: usize) -> Result<Matrix, String> {
    let header = Header::parse(&header_text(&mut input)?)?;
    let rows = header.rows.min(most);
    let bytes = rows.checked_mul(header.dimension * header.kind.width()).ok_or("its shape is absurd")?;
    let mut data = Vec::new();
    input.take(bytes as u64).read_to_end(&mut data).map_err(|e| e.to_string())?;
    if data.len() != bytes {
        return Err(format!("it is cut off: {} of {bytes} bytes of numbers are there", data.len()));
    }
    Ok(Matrix { dimension: header.dimension, numbers: header.kind.decode(&data) })
}

fn header_text(input: &mut impl Read) -> Result<String, String> {
    let cut = |e: std::io::Error| format!("its header is cut off: {e}");
    let mut head = [0; 8];
    input.read_exact(&mut head).map_err(cut)?;
    if !head.starts_with(MAGIC) {
        return Err("it does not begin as an .npy file does".into());
    }
    let mut length = [0; 4];
    // Version 1 has two bytes of length, later ones four.
    let width = if head[6] == 1 { 2 } else { 4 };
    input.read_exact(&mut length[..width]).map_err(cut)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err("its header is longer than any that makes sense".into());
    }
    let mut text = vec![0; length];
    input.read_exact(&mut text).map_err(cut)?;
    String::from_utf8(text).map_err(|_| "its header is no text".into())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F32,
    F64,
    U8,
}

impl Kind {
    fn width(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F64 => 8,
            Self::U8 => 1,
        }
    }

    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect(),
            Self::F64 => bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32).collect(),
            Self::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Header {
    kind: Kind,
    rows: usize,
    dimension: usize,
}

impl Header {
    /// Out of a Python dictionary such as `{'descr': '<f4', 'fortran_order': False, 'shape': (10, 3), }`.
    fn parse(text: &str) -> Result<Self, String> {
        let kind = match quoted(value(text, "descr")?)? {
            "<f4" => Kind::F32,
            "<f8" => Kind::F64,
            "|u1" => Kind::U8,
            other => return Err(format!("its numbers are {other}; <f4, <f8 and |u1 can be read")),
        };
        if !value(text, "fortran_order")?.starts_with("False") {
            return Err("it is in Fortran order; save it with numpy.ascontiguousarray".into());
        }
        let shape = value(text, "shape")?;
        let inside = shape.strip_prefix('(').and_then(|s| s.split_once(')')).ok_or("its shape is no tuple")?.0;
        let sizes = inside.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::parse::<usize>);
        let sizes = sizes.collect::<Result<Vec<_>, _>>().map_err(|_| format!("its shape ({inside}) is no shape"))?;
        let [rows, rest @ ..] = sizes.as_slice() else { return Err("it holds one number, not vectors".into()) };
        let dimension = rest.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).unwrap_or(0);
        let limit = omma_common::limits::MAX_DIMENSION as usize;
        if rest.is_empty() || !(1..=limit).contains(&dimension) {
            return Err(format!("its shape ({inside}) is not that of vectors of 1 to {limit} numbers"));
        }
        Ok(Self { kind, rows: *rows, dimension })
    }
}

/// What stands after `'name':`.
fn value<'a>(text: &'a str, name: &str) -> Result<&'a str, String> {
    let missing = || format!("its header has no {name}");
    let rest = text.split_once(&format!("'{name}'")).ok_or_else(missing)?.1;
    Ok(rest.trim_start().strip_prefix(':').ok_or_else(missing)?.trim_start())
}

fn quoted(text: &str) -> Result<&str, String> {
    text.strip_prefix('\'').and_then(|s| s.split_once('\'')).map(|(s, _)| s).ok_or("its kind is no text".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, numbers: &[u8]) -> Vec<u8> {
        let mut bytes = [MAGIC, &[1, 0], &(header.len() as u16).to_le_bytes(), header.as_bytes()].concat();
        bytes.extend_from_slice(numbers);
        bytes
    }

    #[test]
    fn kinds_of_numbers_are_read() {
        let f4: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let bytes = file("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }\n", &f4);
        assert_eq!(read(&bytes[..], 9).unwrap(), Matrix { dimension: 2, numbers: vec![1.0, 2.0, 3.0, 4.0] });
        assert_eq!(read(&bytes[..], 1).unwrap().numbers, [1.0, 2.0]);
        let f8: Vec<u8> = [0.5f64, -1.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let bytes = file("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 1)}", &f8);
        assert_eq!(read(&bytes[..], 9).unwrap().numbers, [0.5, -1.0]);
        let bytes = file("{'descr': '|u1', 'fortran_order': False, 'shape': (1, 2, 2), }", &[0, 1, 2, 255]);
        assert_eq!(read(&bytes[..], 9).unwrap(), Matrix { dimension: 4, numbers: vec![0.0, 1.0, 2.0, 255.0] });
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let of = |header: &str| read(&file(header, &[0; 8])[..], 9).unwrap_err();
        assert!(of("{'descr': '>f4', 'fortran_order': False, 'shape': (2, 1), }").contains("<f4"));
        assert!(of("{'descr': '<f4', 'fortran_order': True, 'shape': (2, 1), }").contains("Fortran"));
        assert!(of("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }").contains("shape"));
        assert!(of("{'descr': '<f4', 'fortran_order': False, 'shape': (3, 1), }").contains("cut off"));
        assert!(of("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 9000), }").contains("8192"));
        assert!(of("{}").contains("no descr"));
        assert!(read(&b"PK\x03\x04 not numpy"[..], 9).unwrap_err().contains(".npy"));
    }
}
