//! Altered copies of pictures: what people search with.

use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::imageops::FilterType;
use image::{DynamicImage, GenericImageView, ImageDecoder, ImageReader};

/// Side of a thumbnail, at most, in pixels.
const THUMBNAIL: u32 = 240;

/// A way to alter a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transform {
    CroppedMiddle,
    Recompressed,
    Mirrored,
    Shrunk,
    CroppedCorner,
    Brightened,
    Grey,
    Blurred,
}

impl Transform {
    pub(super) const ALL: [Self; 8] = [
        Self::CroppedMiddle,
        Self::Recompressed,
        Self::Mirrored,
        Self::Shrunk,
        Self::CroppedCorner,
        Self::Brightened,
        Self::Grey,
        Self::Blurred,
    ];

    /// For people: "cropped to …".
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::CroppedMiddle => "cropped to the middle 70 %",
            Self::Recompressed => "recompressed as JPEG of quality 25",
            Self::Mirrored => "mirrored",
            Self::Shrunk => "shrunk to 160 pixels",
            Self::CroppedCorner => "cropped to its lower right",
            Self::Brightened => "brightened, with less contrast",
            Self::Grey => "in grey",
            Self::Blurred => "blurred",
        }
    }

    /// The altered picture.
    pub(super) fn apply(self, picture: &DynamicImage) -> DynamicImage {
        let (width, height) = picture.dimensions();
        let part = |of: u32, percent: u32| (of * percent / 100).max(1);
        match self {
            Self::CroppedMiddle => {
                picture.crop_imm(width * 15 / 100, height * 15 / 100, part(width, 70), part(height, 70))
            }
            Self::CroppedCorner => {
                let (w, h) = (part(width, 75), part(height, 75));
                picture.crop_imm(width - w, height - h, w, h)
            }
            Self::Recompressed => picture.clone(),
            Self::Mirrored => picture.fliph(),
            Self::Shrunk => picture.resize(160, 160, FilterType::Triangle),
            Self::Brightened => picture.brighten(35).adjust_contrast(-20.0),
            Self::Grey => picture.grayscale(),
            Self::Blurred => picture.fast_blur((width.min(height) as f32 / 200.0).max(0.8)),
        }
    }

    fn quality(self) -> u8 {
        if self == Self::Recompressed { 25 } else { 90 }
    }

    /// The altered picture as a file: JPEG.
    pub(super) fn encode(self, picture: &DynamicImage) -> image::ImageResult<Vec<u8>> {
        jpeg(&self.apply(picture), self.quality())
    }
}

/// A small copy, as JPEG.
pub(super) fn thumbnail(picture: &DynamicImage) -> image::ImageResult<Vec<u8>> {
    jpeg(&picture.thumbnail(THUMBNAIL, THUMBNAIL), 80)
}

/// Decodes a file as people see it: turned as its EXIF orientation says.
pub(super) fn open(path: &Path) -> image::ImageResult<DynamicImage> {
    let mut decoder = ImageReader::open(path)?.with_guessed_format()?.into_decoder()?;
    let orientation = decoder.orientation()?;
    let mut picture = DynamicImage::from_decoder(decoder)?;
    picture.apply_orientation(orientation);
    Ok(picture)
}

fn jpeg(picture: &DynamicImage, quality: u8) -> image::ImageResult<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(&picture.to_rgb8())?;
    Ok(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::draw;

    #[test]
    fn every_transform_gives_a_picture_of_the_right_size() {
        let picture = DynamicImage::from(draw(6, 0));
        for transform in Transform::ALL {
            let decoded = image::load_from_memory(&transform.encode(&picture).unwrap()).unwrap();
            let expected = match transform {
                Transform::CroppedMiddle => (224, 168),
                Transform::CroppedCorner => (240, 180),
                Transform::Shrunk => (160, 120),
                _ => (320, 240),
            };
            assert_eq!(decoded.dimensions(), expected, "{transform:?}");
            assert!(decoded.to_rgb8() != picture.to_rgb8(), "{transform:?} changes nothing");
        }
    }

    #[test]
    fn mirroring_swaps_left_and_right() {
        let picture = DynamicImage::from(draw(3, 0));
        let mirrored = Transform::Mirrored.apply(&picture);
        assert_eq!(mirrored.get_pixel(0, 5), picture.get_pixel(319, 5));
    }

    #[test]
    fn tiny_and_transparent_pictures_are_no_problem() {
        let dot = DynamicImage::new_rgba8(1, 1);
        for transform in Transform::ALL {
            assert!(transform.encode(&dot).is_ok(), "{transform:?}");
        }
        assert!(thumbnail(&dot).is_ok());
    }
}
