//! Drawn pictures: each seed another one, all of them unlike each other.

use std::io::Cursor;

use anyhow::Result;
use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, Rgb, RgbImage, imageops};
use rand::Rng;

use crate::vectors::generator;

/// A picture of `width` × `height` pixels: a background gradient with shapes on it.
pub fn draw(seed: u64, width: u32, height: u32) -> RgbImage {
    let mut rng = generator(seed, 0x91C7);
    let mut colour = || Rgb([rng.random::<u8>(), rng.random::<u8>(), rng.random::<u8>()]);
    let (from, to) = (colour(), colour());
    let shapes: Vec<_> = (0..6).map(|_| colour()).collect();
    let places: Vec<(f32, f32, f32, bool)> =
        (0..6).map(|_| (rng.random(), rng.random(), rng.random_range(0.05..0.35), rng.random())).collect();
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (x as f32 / width as f32, y as f32 / height as f32);
        let shape = places.iter().rposition(|&(cx, cy, size, round)| {
            let (dx, dy) = ((u - cx).abs(), (v - cy).abs());
            if round { dx * dx + dy * dy < size * size } else { dx < size && dy < size * 0.6 }
        });
        match shape {
            Some(i) => shapes[i],
            None => Rgb(std::array::from_fn(|c| (f32::from(from.0[c]) * (1.0 - v) + f32::from(to.0[c]) * v) as u8)),
        }
    })
}

/// As PNG.
///
/// # Errors
/// If it cannot be encoded.
pub fn png(picture: &RgbImage) -> Result<Bytes> {
    encode(picture, ImageFormat::Png)
}

/// In any format that needs no options.
///
/// # Errors
/// If it cannot be encoded.
pub fn encode(picture: &RgbImage, format: ImageFormat) -> Result<Bytes> {
    let mut out = Cursor::new(Vec::new());
    picture.write_to(&mut out, format)?;
    Ok(out.into_inner().into())
}

/// As JPEG of a quality of 1 to 100.
///
/// # Errors
/// If it cannot be encoded.
pub fn jpeg(picture: &RgbImage, quality: u8) -> Result<Bytes> {
    let mut out = Vec::new();
    picture.write_with_encoder(JpegEncoder::new_with_quality(&mut out, quality))?;
    Ok(out.into())
}

/// The middle of a picture: `share` (0 to 1) of each side.
pub fn crop(picture: &RgbImage, share: f32) -> RgbImage {
    let (w, h) = ((picture.width() as f32 * share) as u32, (picture.height() as f32 * share) as u32);
    imageops::crop_imm(picture, (picture.width() - w) / 2, (picture.height() - h) / 2, w, h).to_image()
}

/// A PNG whose header claims `width` × `height` and whose data is one small stripe.
///
/// # Errors
/// If the small picture cannot be encoded.
pub fn lying_png(width: u32, height: u32) -> Result<Bytes> {
    let mut bytes = png(&draw(1, 16, 16))?.to_vec();
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let crc = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&crc.to_be_bytes());
    Ok(bytes.into())
}

/// CRC-32 as PNG has it (polynomial 0xEDB88320), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &b| {
        (0..8).fold(crc ^ u32::from(b), |c, _| if c & 1 == 1 { (c >> 1) ^ 0xEDB8_8320 } else { c >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_survives_its_encoding() {
        let picture = draw(5, 40, 30);
        assert_eq!(picture, draw(5, 40, 30));
        assert_ne!(picture, draw(6, 40, 30));
        assert_eq!(image::load_from_memory(&png(&picture).unwrap()).unwrap().to_rgb8(), picture);
        assert_eq!(image::load_from_memory(&jpeg(&picture, 80).unwrap()).unwrap().to_rgb8().dimensions(), (40, 30));
        assert_eq!(crop(&picture, 0.5).dimensions(), (20, 15));
    }

    #[test]
    fn the_lie_is_well_formed() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        let reader = image::ImageReader::new(Cursor::new(lying_png(50_000, 40_000).unwrap()));
        let dimensions = reader.with_guessed_format().unwrap().into_dimensions().unwrap();
        assert_eq!(dimensions, (50_000, 40_000));
    }
}
