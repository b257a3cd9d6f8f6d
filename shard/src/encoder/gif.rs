//! The size of a GIF's first frame, which may be larger than the screen that its header gives. GIF89a, 20 and 24.

/// Signature and screen, before the table of colours.
const HEADER: usize = 13;
const EXTENSION: u8 = 0x21;
const IMAGE: u8 = 0x2C;

/// Width and height of the first frame; `None` if there is none, or something before it that no decoder takes.
pub(super) fn first_frame(gif: &[u8]) -> Option<(u32, u32)> {
    let (header, mut rest) = gif.split_at_checked(HEADER)?;
    if header[10] & 0x80 != 0 {
        // Three bytes for each colour.
        rest = rest.get(3 << ((header[10] & 7) + 1)..)?;
    }
    loop {
        let (kind, after) = rest.split_first()?;
        rest = match *kind {
            EXTENSION => extended(after.get(1..)?)?,
            IMAGE => {
                let &[a, b, c, d] = after.get(4..8)? else { return None };
                return Some((u16::from_le_bytes([a, b]).into(), u16::from_le_bytes([c, d]).into()));
            }
            _ => return None,
        }
    }
}

/// What follows an extension's sub-blocks; the last of those is empty.
fn extended(mut rest: &[u8]) -> Option<&[u8]> {
    loop {
        let (size, after) = rest.split_first()?;
        rest = after.get(usize::from(*size)..)?;
        if *size == 0 {
            return Some(rest);
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One whose frame says `frame`; of its pixels, none is there.
    pub(in super::super) fn gif(screen: (u16, u16), frame: (u16, u16), extensions: &[&[u8]]) -> Vec<u8> {
        let mut gif = [&b"GIF89a"[..], &screen.0.to_le_bytes(), &screen.1.to_le_bytes(), &[0x80, 0, 0]].concat();
        gif.extend([0, 0, 0, 255, 255, 255]);
        gif.extend(extensions.concat());
        gif.push(IMAGE);
        gif.extend([[0, 0], [0, 0], frame.0.to_le_bytes(), frame.1.to_le_bytes()].concat());
        gif.extend([0, 2, 2, 0x4C, 0x01, 0, 0x3B]);
        gif
    }

    #[test]
    fn finds_the_frame_behind_tables_and_extensions() {
        let control = [EXTENSION, 0xF9, 4, 0, 0, 0, 0, 0];
        let comment = [&[EXTENSION, 0xFE, 2, IMAGE, IMAGE, 1, IMAGE, 0][..], &[EXTENSION, 0xFE, 0]].concat();
        for extensions in [&[][..], &[&control[..]], &[&comment, &control]] {
            let gif = gif((1, 1), (300, 200), extensions);
            assert_eq!(first_frame(&gif), Some((300, 200)));
            let whole = gif.len() - 7;
            for end in 0..gif.len() {
                assert_eq!(first_frame(&gif[..end]).is_some(), end >= whole, "{end}");
            }
        }
        let trailer_first = gif((1, 1), (300, 200), &[&[0x3B]]);
        assert_eq!(first_frame(&trailer_first), None);
    }
}
