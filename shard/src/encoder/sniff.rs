//! What a picture is, by its first bytes. Names and media types are not looked at: they lie.

use super::error::PictureError;

/// A format that can be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Baseline and progressive.
    Jpeg,
    /// And its animated form.
    Png,
    /// 87a and 89a.
    Gif,
    /// Lossy and lossless.
    WebP,
    /// Windows bitmap.
    Bmp,
    /// Either byte order, and BigTIFF.
    Tiff,
}

impl Format {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Format::Jpeg => "JPEG",
            Format::Png => "PNG",
            Format::Gif => "GIF",
            Format::WebP => "WebP",
            Format::Bmp => "BMP",
            Format::Tiff => "TIFF",
        }
    }
}

/// Start of the file, what it is called, and the format if it can be decoded.
const SIGNATURES: &[(&[u8], &str, Option<Format>)] = &[
    (b"\xFF\xD8\xFF", "JPEG", Some(Format::Jpeg)),
    (b"\x89PNG\r\n\x1A\n", "PNG", Some(Format::Png)),
    (b"GIF87a", "GIF", Some(Format::Gif)),
    (b"GIF89a", "GIF", Some(Format::Gif)),
    (b"II*\0", "TIFF", Some(Format::Tiff)),
    (b"MM\0*", "TIFF", Some(Format::Tiff)),
    (b"II+\0", "TIFF", Some(Format::Tiff)),
    (b"MM\0+", "TIFF", Some(Format::Tiff)),
    (b"BM", "BMP", Some(Format::Bmp)),
    (b"\0\0\x01\0", "ICO", None),
    (b"\0\0\x02\0", "CUR", None),
    (b"8BPS", "Photoshop", None),
    (b"%PDF-", "PDF", None),
    (b"<svg", "SVG", None),
    (b"<?xml", "XML or SVG", None),
    (b"DDS ", "DDS", None),
    (b"qoif", "QOI", None),
    (b"farbfeld", "farbfeld", None),
    (b"#?RADIANCE", "Radiance HDR", None),
    (b"\x76\x2F\x31\x01", "OpenEXR", None),
    (b"\xFF\x0A", "JPEG XL", None),
    (b"\0\0\0\x0CJXL ", "JPEG XL", None),
    (b"\0\0\0\x0CjP  ", "JPEG 2000", None),
    (b"\xFF\x4F\xFF\x51", "JPEG 2000", None),
];

/// Brands of the ISO base media format that hold pictures (bytes 8..12, after `ftyp`).
const BRANDS: &[(&[u8; 4], &str)] =
    &[(b"avif", "AVIF"), (b"avis", "AVIF"), (b"heic", "HEIC"), (b"heix", "HEIC"), (b"mif1", "HEIF"), (b"msf1", "HEIF")];

/// The format of `picture`, or why it has none that is supported.
pub(super) fn sniff(picture: &[u8]) -> Result<Format, PictureError> {
    if picture.starts_with(b"RIFF") && picture.get(8..12) == Some(b"WEBP") {
        return Ok(Format::WebP);
    }
    let (name, format) = SIGNATURES
        .iter()
        .find(|(signature, ..)| picture.starts_with(signature))
        .map(|&(_, name, format)| (name, format))
        .or_else(|| Some((brand(picture)?, None)))
        .ok_or(PictureError::UnknownFormat)?;
    format.ok_or_else(|| PictureError::Unsupported { what: name.to_owned() })
}

fn brand(picture: &[u8]) -> Option<&'static str> {
    let brand = picture.get(8..12).filter(|_| picture.get(4..8) == Some(b"ftyp"))?;
    BRANDS.iter().find(|(known, _)| brand == *known).map(|&(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_decodable_from_known_from_unknown() {
        assert_eq!(sniff(b"RIFF\x10\0\0\0WEBPVP8 "), Ok(Format::WebP));
        assert_eq!(sniff(b"\xFF\xD8\xFF\xE0"), Ok(Format::Jpeg));
        let unsupported = |what: &str| Err(PictureError::Unsupported { what: what.into() });
        assert_eq!(sniff(b"\0\0\0\x1Cftypavif\0\0\0\0"), unsupported("AVIF"));
        assert_eq!(sniff(b"<svg xmlns"), unsupported("SVG"));
        for bytes in [b"".as_slice(), b"\xFF", b"\xFF\xD8", b"RIFF\x10\0\0\0WAVE", b"<html>", b"\0\0\0\x1Cftypisom"] {
            assert_eq!(sniff(bytes), Err(PictureError::UnknownFormat), "{bytes:?}");
        }
    }
}
