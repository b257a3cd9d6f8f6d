//! What the markers of a JPEG say of the memory that it takes. ITU-T T.81, B.1.1.
//!
//! Up to the first scan they are read as the decoder reads them, which takes markers that have no length, such as
//! restarts, for segments: else a file could hide from one what the other sees.

/// What the decoder keeps for each pixel and component until the last scan: a coefficient.
const COEFFICIENT: u64 = 2;
/// Most components.
const COMPONENTS: u64 = 4;
/// A frame is whole blocks of eight pixels, four of which may make one unit of the scan.
const UNIT: u64 = 32;

/// What the markers say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Markers {
    /// It goes on to its end-of-image marker. The decoder is lenient: it fills what is missing with gray, and a picture
    /// that is half gray has wrong neighbours.
    pub end: bool,
    /// All coefficients are kept: it is decoded in several passes, or its first scan has not all components.
    keeps_coefficients: bool,
}

impl Markers {
    pub(super) fn of(jpeg: &[u8]) -> Self {
        match Header::of(jpeg) {
            Some((header, rest)) => {
                Self { end: ends(rest), keeps_coefficients: header.passes || header.scanned != header.components }
            }
            // The decoder will say what is wrong with it.
            None => Self { end: ends(jpeg), keeps_coefficients: true },
        }
    }

    /// Bytes that the decoder keeps beside the pixels.
    pub(super) fn kept(&self, (width, height): (u32, u32)) -> u64 {
        let whole = |side: u32| u64::from(side).next_multiple_of(UNIT);
        if self.keeps_coefficients { whole(width) * whole(height) * COMPONENTS * COEFFICIENT } else { 0 }
    }
}

/// What stands before the first scan's pixels.
#[derive(Default)]
struct Header {
    /// A progressive one.
    passes: bool,
    /// Of the frame, and of its first scan.
    components: u8,
    scanned: u8,
}

impl Header {
    /// And what follows it; `None` if the decoder cannot read it either.
    fn of(jpeg: &[u8]) -> Option<(Self, &[u8])> {
        let (mut header, mut rest) = (Self::default(), jpeg.get(2..)?);
        loop {
            let (marker, after) = marker(rest)?;
            let &[high, low] = after.get(..2)? else { return None };
            let mut length = usize::from(u16::from_be_bytes([high, low]));
            let segment = after.get(..length).filter(|_| length >= 2)?;
            match marker {
                // Those end the picture for the decoder.
                0xD9 | 0xCC | 0xDC => return None,
                0xC0..=0xC2 => {
                    header.passes |= marker == 0xC2;
                    header.components = *segment.get(7)?;
                }
                0xDA => {
                    header.scanned = *segment.get(2)?;
                    return Some((header, after.get(length..)?));
                }
                // Of this one the decoder reads five bytes, even if there are four.
                0xE0 if length == 6 => length = 7,
                _ => {}
            }
            rest = after.get(length..)?;
        }
    }
}

/// The next marker and what follows it.
fn marker(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let fills = |byte| matches!(byte, 0x00 | 0xFF);
    let (mut at, mut last) = (0, 0);
    loop {
        let mut byte = *bytes.get(at)?;
        // Fill bytes. What follows a zero is no marker.
        if last == 0xFF {
            while fills(byte) {
                last = byte;
                at += 1;
                byte = *bytes.get(at)?;
            }
        }
        at += 1;
        if last == 0xFF {
            return Some((byte, bytes.get(at..)?));
        }
        last = byte;
    }
}

/// Whether the end-of-image marker comes.
fn ends(mut rest: &[u8]) -> bool {
    loop {
        // Between segments and in entropy-coded data alike: on to the next 0xFF that starts a marker.
        let Some(at) = rest.iter().position(|&b| b == 0xFF) else { return false };
        rest = &rest[at + 1..];
        match rest.first() {
            None => return false,
            // Fill byte: the next 0xFF may start the marker.
            Some(0xFF) => {}
            // Stuffed zero, TEM, restart markers, start of image: no length follows.
            Some(0x00 | 0x01 | 0xD0..=0xD8) => rest = &rest[1..],
            Some(0xD9) => return true,
            Some(_) => {
                let Some(&[high, low]) = rest.get(1..3) else { return false };
                let Some(next) = rest.get(1 + usize::from(u16::from_be_bytes([high, low]))..) else { return false };
                rest = next;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const TABLES: &[u8] = &[0xFF, 0xDB, 0, 3, 0];

    fn frame(kind: u8, components: u8) -> Vec<u8> {
        let length = 8 + 3 * components;
        [vec![0xFF, kind, 0, length, 8, 0, 30, 0, 40, components], vec![1; 3 * usize::from(components)]].concat()
    }

    fn scan(components: u8) -> Vec<u8> {
        [vec![0xFF, 0xDA, 0, 6 + 2 * components, components], vec![1; 2 * usize::from(components)], vec![0, 63, 0]]
            .concat()
    }

    fn keeps(parts: &[&[u8]]) -> bool {
        let jpeg = [&[0xFF, 0xD8][..], TABLES, &parts.concat(), &[7, 0xFF, 0, 7, 0xFF, 0xD9]].concat();
        let markers = Markers::of(&jpeg);
        assert!(markers.end);
        assert_eq!(markers.kept((40, 30)), if markers.keeps_coefficients { 64 * 32 * 8 } else { 0 });
        markers.keeps_coefficients
    }

    #[test]
    fn several_passes_and_scans_keep_all_coefficients() {
        assert!(!keeps(&[&frame(0xC0, 3), &scan(3)]) && !keeps(&[&frame(0xC1, 1), &scan(1)]));
        assert!(keeps(&[&frame(0xC2, 3), &scan(3)]), "progressive");
        assert!(
            keeps(&[&frame(0xC0, 3), &scan(1)]) && keeps(&[&frame(0xC0, 4), &scan(3)]),
            "one component after another"
        );
        assert!(keeps(&[&scan(3)]) && keeps(&[&frame(0xC0, 3)]), "what the decoder will refuse");
    }

    /// Before the frame, these are segments for the decoder, also if they hold what looks like an end or a frame.
    #[test]
    fn no_marker_hides_the_frame() {
        let decoy = [&frame(0xC0, 3)[..], &scan(3)].concat();
        for hiding in [0x01, 0x02, 0xD0, 0xD7, 0xD8, 0xFE, 0xE0] {
            let end: &[u8] = &[0xFF, hiding, 0, 4, 0xFF, 0xD9];
            let another = [&[0xFF, hiding, 0, decoy.len() as u8 + 2], &decoy[..]].concat();
            for before in [end, &another, &[end, &another].concat()] {
                assert!(keeps(&[before, &frame(0xC2, 3), &scan(3)]), "{hiding:#x}");
                assert!(!keeps(&[before, &frame(0xC0, 3), &scan(3)]), "{hiding:#x}");
            }
        }
        // The decoder reads one byte more than this segment has.
        let short = &[0xFF, 0xE0, 0, 6, 1, 2, 3, 4, 0xFF];
        assert!(keeps(&[short, &[0xC2], &decoy]) == keeps(&[&decoy]));
        // Fill bytes start a marker, a zero after them does not.
        assert!(keeps(&[&[0xFF, 0xFF, 0xFF], &frame(0xC2, 3), &scan(3)]));
        assert!(!keeps(&[&[0xFF, 0, 0xC2], &decoy]));
        assert!(!Markers::of(&[0xFF, 0xD8, 0xFF, 0xDA, 0, 3]).end);
    }
}
