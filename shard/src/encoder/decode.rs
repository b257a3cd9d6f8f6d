//! A picture's bytes to RGB pixels, upright.
//!
//! Size in bytes and in pixels is checked before any pixel is decoded. Colours come out as Pillow's `convert("RGB")`
//! has them: alpha is dropped, 16 bits become 8, gray, palette and CMYK become RGB; embedded colour profiles are not
//! applied. Of an animation, the first frame.

use std::io::Cursor;

use image::codecs;
use image::error::{ImageError, LimitErrorKind};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, Limits, RgbImage};

use super::caught::caught;
use super::error::PictureError;
use super::sniff::{Format, sniff};
use super::{chunks, gif, jpeg, webp};

/// What a decoder may need beside its pixels: tables, rows, metadata.
const WORKING_MEMORY: u64 = 64 << 20;

/// What decoding takes at most for each pixel: a progressive JPEG's coefficients in four planes of 16 bits, its pixels,
/// and those once more. TIFFs of 32-bit floats, which nobody's camera makes, take up to 19, and so do JPEGs that are a
/// few pixels wide, for those are whole blocks.
pub(crate) const MOST_DECODE_BYTES_PER_PIXEL: u64 = 14;

/// Longest side: what a resize needs for its filter grows with it.
const MAX_SIDE: u32 = 1 << 17;

/// The most that is accepted of one picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PictureLimits {
    /// Encoded.
    pub bytes: usize,
    /// Width times height, as the header has them.
    pub pixels: u64,
}

impl PictureLimits {
    /// Before anything else looks at the bytes.
    pub(super) fn check_bytes(&self, picture: &[u8]) -> Result<(), PictureError> {
        match picture.len() {
            0 => Err(PictureError::Empty),
            bytes if bytes > self.bytes => Err(PictureError::TooManyBytes { bytes, limit: self.bytes }),
            _ => Ok(()),
        }
    }

    fn check_pixels(&self, format: Format, (width, height): (u32, u32)) -> Result<(), PictureError> {
        match area((width, height)) {
            0 => Err(damaged(format, format!("it says that it has {width} x {height} pixels"))),
            n if n > self.pixels => Err(PictureError::TooManyPixels { width, height, limit: self.pixels }),
            _ if width.max(height) > MAX_SIDE => Err(PictureError::TooLong { width, height, limit: MAX_SIDE }),
            _ => Ok(()),
        }
    }

    /// Four bytes for each allowed pixel, and [`WORKING_MEMORY`].
    fn memory(&self) -> Limits {
        let mut limits = Limits::default();
        limits.max_alloc = Some(self.pixels.saturating_mul(4).saturating_add(WORKING_MEMORY));
        limits
    }
}

/// Asked with the bytes that a picture will need, before they are used; `false`: they are not there.
pub(super) type Room<'a> = &'a mut dyn FnMut(u64) -> bool;

/// Decodes `picture`, whatever its name was. A panic in a decoder is the picture's fault and costs one error.
pub(super) fn decode(picture: &[u8], limits: &PictureLimits, room: Room<'_>) -> Result<RgbImage, PictureError> {
    limits.check_bytes(picture)?;
    let format = sniff(picture)?;
    // What the closure borrows is read only, what it builds is lost in a panic.
    caught(|| decode_as(format, picture, limits, room))
        .unwrap_or_else(|| Err(damaged(format, "its decoder gave up".into())))
}

fn decode_as(format: Format, picture: &[u8], limits: &PictureLimits, room: Room<'_>) -> Result<RgbImage, PictureError> {
    let reader = Cursor::new(picture);
    let error = |e| from_image(format, e);
    match format {
        Format::Jpeg => {
            let markers = jpeg::Markers::of(picture);
            if !markers.end {
                return Err(damaged(format, "it ends before its end marker".into()));
            }
            let decoder = codecs::jpeg::JpegDecoder::new(reader).map_err(error)?;
            let kept = markers.kept(decoder.dimensions());
            pixels(format, decoder, kept, limits, room)
        }
        Format::Png => {
            // Nor is what stands behind the pixels inflated: only rows and small chunks count against this limit.
            let bare = chunks::bare(picture);
            let mut small = Limits::no_limits();
            small.max_alloc = Some(WORKING_MEMORY);
            pixels(
                format,
                codecs::png::PngDecoder::with_limits(Cursor::new(bare.as_ref()), small).map_err(error)?,
                0,
                limits,
                room,
            )
        }
        Format::Gif => {
            // A frame that is not as wide as the screen is decoded beside it: its numbers of colours, and their colours.
            let frame = gif::first_frame(picture).unwrap_or_default();
            if area(frame) > 0 {
                limits.check_pixels(format, frame)?;
            }
            pixels(format, codecs::gif::GifDecoder::new(reader).map_err(error)?, area(frame) * 5, limits, room)
        }
        Format::WebP => {
            let decoder = codecs::webp::WebPDecoder::new(reader).map_err(error)?;
            let canvas = decoder.dimensions();
            if let Some((width, height)) = webp::frame_beyond(picture, canvas) {
                let (w, h) = canvas;
                return Err(damaged(
                    format,
                    format!("a frame of {width} x {height} pixels is on a canvas of {w} x {h}"),
                ));
            }
            // Planes, or the pixels with alpha, before they are what was asked for; an animation's canvas.
            pixels(format, decoder, area(canvas) * 5, limits, room)
        }
        Format::Bmp => pixels(format, codecs::bmp::BmpDecoder::new(reader).map_err(error)?, 0, limits, room),
        Format::Tiff => pixels(format, codecs::tiff::TiffDecoder::new(reader).map_err(error)?, 0, limits, room),
    }
}

fn area((width, height): (u32, u32)) -> u64 {
    u64::from(width) * u64::from(height)
}

/// The rest, once the header is read. `kept`: bytes that the decoder holds beside those it gives.
fn pixels(
    format: Format,
    mut decoder: impl ImageDecoder,
    kept: u64,
    limits: &PictureLimits,
    room: Room<'_>,
) -> Result<RgbImage, PictureError> {
    limits.check_pixels(format, decoder.dimensions())?;
    let error = |e| from_image(format, e);
    limits.memory().reserve(decoder.total_bytes()).map_err(error)?;
    // As decoded, and once more as RGB: converted or turned upright.
    let more = area(decoder.dimensions()) * 3 + kept;
    if !room(decoder.total_bytes().saturating_add(more)) {
        return Err(PictureError::NoRoom);
    }
    // The whole of it: the TIFF decoder subtracts its pixels itself.
    let mut most = limits.memory();
    if format == Format::Gif {
        // It asks for its frame alone, which is not to be larger than what was taken for it.
        most.max_alloc = Some(kept);
    }
    decoder.set_limits(most).map_err(error)?;
    // A broken orientation is no reason to refuse the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let image = DynamicImage::from_decoder(decoder).map_err(error)?.into_rgb8();
    if orientation == Orientation::NoTransforms {
        return Ok(image);
    }
    let mut upright = DynamicImage::ImageRgb8(image);
    upright.apply_orientation(orientation);
    Ok(upright.into_rgb8())
}

fn damaged(format: Format, reason: String) -> PictureError {
    PictureError::Damaged { format: format.name(), reason }
}

fn from_image(format: Format, error: ImageError) -> PictureError {
    match error {
        ImageError::Limits(e) if matches!(e.kind(), LimitErrorKind::InsufficientMemory) => {
            PictureError::TooMuchMemory { format: format.name() }
        }
        ImageError::Unsupported(e) => {
            PictureError::Unsupported { what: format!("this kind of {} ({})", format.name(), brief(&e)) }
        }
        other => damaged(format, brief(&other)),
    }
}

/// Decoders may quote what they read: a message must not grow with the picture.
fn brief(error: &dyn std::fmt::Display) -> String {
    error.to_string().chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb};
    use proptest::prelude::*;

    use super::*;

    fn decode(picture: &[u8], limits: &PictureLimits) -> Result<RgbImage, PictureError> {
        super::decode(picture, limits, &mut |_| true)
    }

    const LIMITS: PictureLimits = PictureLimits { bytes: 1 << 20, pixels: 10_000 };

    fn sample(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 5) as u8, (y * 7) as u8, 90]))
    }

    fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image.into().write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    #[test]
    fn lossless_formats_come_back_exactly() {
        let image = sample(40, 30);
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            assert_eq!(decode(&encoded(image.clone(), format), &LIMITS).unwrap(), image, "{format:?}");
        }
    }

    #[test]
    fn colours_as_pillow_has_them() {
        let alpha = image::RgbaImage::from_pixel(2, 2, image::Rgba([10, 20, 30, 0]));
        assert_eq!(decode(&encoded(alpha, ImageFormat::Png), &LIMITS).unwrap().get_pixel(0, 0), &Rgb([10, 20, 30]));
        let deep = image::ImageBuffer::from_pixel(2, 2, image::Luma([0x8080u16]));
        let deep = encoded(DynamicImage::ImageLuma16(deep), ImageFormat::Png);
        assert_eq!(decode(&deep, &LIMITS).unwrap().get_pixel(1, 1), &Rgb([0x80; 3]));
    }

    #[test]
    fn limits_come_first() {
        let png = encoded(sample(101, 100), ImageFormat::Png);
        assert_eq!(decode(&png, &LIMITS), Err(PictureError::TooManyPixels { width: 101, height: 100, limit: 10_000 }));
        let small = PictureLimits { bytes: png.len() - 1, ..LIMITS };
        assert_eq!(decode(&png, &small), Err(PictureError::TooManyBytes { bytes: png.len(), limit: png.len() - 1 }));
        assert_eq!(decode(b"", &LIMITS), Err(PictureError::Empty));
    }

    #[test]
    fn the_largest_that_is_allowed_can_be_decoded() {
        // Larger than the memory for its metadata: what is allowed must cover the pixels, in every format.
        let large = PictureLimits { bytes: 1 << 28, pixels: 4000 * 4000 };
        let image = RgbImage::from_pixel(4000, 4000, Rgb([1, 2, 3]));
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff] {
            let decoded = decode(&encoded(image.clone(), format), &large);
            assert_eq!(decoded.map(|i| i.dimensions()), Ok((4000, 4000)), "{format:?}");
        }
    }

    #[test]
    fn every_truncation_of_a_jpeg_is_an_error() {
        let jpeg = encoded(sample(64, 48), ImageFormat::Jpeg);
        assert!(decode(&jpeg, &LIMITS).is_ok());
        for end in 1..jpeg.len() {
            assert!(decode(&jpeg[..end], &LIMITS).is_err(), "{end} of {} bytes", jpeg.len());
        }
    }

    proptest! {
        /// Whatever the bytes, an answer and no panic; and what decodes is within the limits.
        #[test]
        fn damage_costs_at_most_an_error(
            format in prop::sample::select(vec![
                ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff,
            ]),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        ) {
            let mut bytes = encoded(sample(20, 20), format);
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            if let Ok(image) = decode(&bytes, &LIMITS) {
                prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= LIMITS.pixels);
            }
        }
    }

    #[test]
    fn memory_is_asked_for_before_pixels_are_decoded() {
        let mut asked = Vec::new();
        let picture = encoded(sample(40, 30), ImageFormat::Png);
        let refused = super::decode(&picture, &LIMITS, &mut |bytes| {
            asked.push(bytes);
            false
        });
        assert_eq!((refused, asked), (Err(PictureError::NoRoom), vec![40 * 30 * 6]));
        // Nothing is asked for a picture that is refused anyway.
        let large = encoded(sample(200, 100), ImageFormat::Png);
        let refused = super::decode(&large, &LIMITS, &mut |_| panic!("asked"));
        assert!(matches!(refused, Err(PictureError::TooManyPixels { .. })));
    }

    /// What a picture asks for; it is decoded no further.
    fn asked(picture: &[u8]) -> Result<u64, PictureError> {
        let mut asked = None;
        let refused = super::decode(picture, &LIMITS, &mut |bytes| {
            asked = Some(bytes);
            false
        });
        asked.ok_or_else(|| refused.unwrap_err())
    }

    #[test]
    fn a_frame_beyond_its_canvas_is_not_unpacked() {
        let reason = "a frame of 16383 x 16383 pixels is on a canvas of 1 x 1";
        for (i, bomb) in webp::tests::bombs().iter().enumerate() {
            let damaged = PictureError::Damaged { format: "WebP", reason: reason.into() };
            assert_eq!(asked(bomb), Err(damaged), "{i}");
        }
    }

    #[test]
    fn a_gifs_frame_counts_as_its_screen_does() {
        let gif = |frame| gif::tests::gif((1, 1), frame, &[]);
        assert_eq!(
            asked(&gif((101, 100))),
            Err(PictureError::TooManyPixels { width: 101, height: 100, limit: 10_000 })
        );
        assert_eq!(asked(&gif((100, 100))), Ok(7 + 50_000));
        // No memory but what was asked for; the frame has fewer pixels than it says.
        assert!(matches!(decode(&gif((100, 100)), &LIMITS), Err(PictureError::Damaged { .. })));
        let small = encoded(sample(40, 30), ImageFormat::Gif);
        assert_eq!(decode(&small, &LIMITS).map(|i| i.dimensions()), Ok((40, 30)));
    }

    /// One component of the three in its first scan.
    #[test]
    fn a_jpeg_of_separate_scans_asks_for_its_coefficients() {
        let plain = encoded(sample(64, 32), ImageFormat::Jpeg);
        assert_eq!(asked(&plain), Ok(64 * 32 * 6));
        let at = plain.windows(2).position(|marker| marker == [0xFF, 0xDA]).unwrap();
        let scan = [0xFF, 0xDA, 0, 8, 1, plain[at + 5], 0, 0, 63, 0];
        let separate = [&plain[..at], &scan, &plain[at + 14..]].concat();
        assert_eq!(asked(&separate), Ok(64 * 32 * (6 + 8)));
        // A restart before the frame is a segment for the decoder; what it holds is neither an end nor a frame.
        let frame = plain.windows(2).position(|marker| marker == [0xFF, 0xC0]).unwrap();
        let mut progressive = plain.clone();
        progressive[frame + 1] = 0xC2;
        progressive.splice(2..2, [0xFF, 0xD0, 0, 4, 0xFF, 0xD9]);
        assert_eq!(asked(&progressive), Ok(64 * 32 * (6 + 8)));
    }
}
