//! Pictures whose colour profiles hold more than they should: packed several times over, one inside another, in a chain
//! of segments, or many of them.

use std::io::Write;

use anyhow::{Context, Result};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::ZlibEncoder;

use crate::pictures::{draw, jpeg, png};

/// Where the first chunk after a PNG's header begins.
const AFTER_HEADER: usize = 33;
/// Bytes of a JPEG's segment that are not its marker.
const SEGMENT: usize = 0xFFFF;

/// What each is, and the picture. All of them are valid but for their profiles.
///
/// # Errors
/// If one cannot be made.
pub fn nested_profiles() -> Result<Vec<(&'static str, Bytes)>> {
    Ok(vec![
        ("a PNG whose profile inflates three times over, to 256 MiB", packed_thrice()?),
        ("a PNG in the profile of a PNG, 40 deep", pictures_in_profiles()?),
        ("a PNG with 2,000 profiles and texts of 1 MiB", many_chunks()?),
        ("a JPEG whose profile is a chain of 230 segments", chain(230, SEGMENT)?),
        ("a JPEG with 300,000 segments of a profile", chain(300_000, 20)?),
    ])
}

fn zlib(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Result<Vec<u8>> {
    let body = [&kind[..], data].concat();
    let sum = crc32fast::hash(&body);
    Ok([&u32::try_from(data.len())?.to_be_bytes()[..], &body, &sum.to_be_bytes()].concat())
}

/// A chunk iCCP: a name, how it is packed, and `packed`.
fn profile(packed: &[u8]) -> Result<Vec<u8>> {
    chunk(b"iCCP", &[b"p\0\0", packed].concat())
}

fn with_chunks(png: &[u8], chunks: &[u8]) -> Result<Vec<u8>> {
    let (header, rest) = png.split_at_checked(AFTER_HEADER).context("a PNG without a header")?;
    Ok([header, chunks, rest].concat())
}

fn packed_thrice() -> Result<Bytes> {
    let mut packed = vec![0; 256 << 20];
    for _ in 0..3 {
        packed = zlib(&packed)?;
    }
    Ok(with_chunks(&png(&draw(2, 60, 60))?, &profile(&packed)?)?.into())
}

fn pictures_in_profiles() -> Result<Bytes> {
    let plain = png(&draw(3, 30, 30))?;
    let mut nested = plain.to_vec();
    for _ in 0..40 {
        nested = with_chunks(&plain, &profile(&zlib(&nested)?)?)?;
    }
    Ok(nested.into())
}

fn many_chunks() -> Result<Bytes> {
    let packed = zlib(&vec![0; 1 << 20])?;
    let pair = [profile(&packed)?, chunk(b"zTXt", &[b"t\0\0", &packed[..]].concat())?].concat();
    Ok(with_chunks(&png(&draw(4, 60, 60))?, &pair.repeat(1_000))?.into())
}

/// `segments` APP2 segments of `length` bytes, each the next part of one profile, as far as one byte counts.
fn chain(segments: usize, length: usize) -> Result<Bytes> {
    let plain = jpeg(&draw(5, 60, 60), 90)?;
    let (start, rest) = plain.split_at_checked(2).context("a JPEG without a start")?;
    let mut out = start.to_vec();
    for n in 0..segments {
        out.extend_from_slice(&[0xFF, 0xE2]);
        out.extend_from_slice(&u16::try_from(length)?.to_be_bytes());
        out.extend_from_slice(b"ICC_PROFILE\0");
        out.extend_from_slice(&[(n % 255 + 1) as u8, 255]);
        out.resize(out.len() + length - 16, 0);
    }
    Ok([&out, rest].concat().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_small_enough_to_be_sent_and_decode_to_something() {
        for (what, picture) in nested_profiles().unwrap() {
            assert!(picture.len() < 16 << 20, "{what}: {}", picture.len());
            assert!(image::load_from_memory(&picture).is_ok(), "{what}");
        }
    }
}
