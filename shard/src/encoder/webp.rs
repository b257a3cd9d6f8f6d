//! The size of a WebP's frames, as their own headers have it. RFC 9649.
//!
//! A file says twice how large it is: for its canvas and for each frame. The decoder unpacks the whole of a lossy frame
//! before it compares the two, so that a canvas of one pixel could hide a frame of 16,383 x 16,383.

/// `RIFF`, its size, `WEBP`.
const HEADER: usize = 12;
/// Of a frame of an animation: where and how large it is, and how long it is shown. Its chunks follow.
const ANIMATION_HEADER: usize = 16;

/// Kind, and all bytes from the chunk's content on: what the decoder reads is not always cut at the chunk's end.
type Chunk<'a> = ([u8; 4], &'a [u8]);

fn chunks(mut rest: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    std::iter::from_fn(move || {
        let (kind, sized) = rest.split_first_chunk::<4>()?;
        let (size, content) = sized.split_first_chunk::<4>()?;
        let size = usize::try_from(u32::from_le_bytes(*size)).ok()?;
        rest = content.get(size.saturating_add(size % 2)..).unwrap_or_default();
        Some((*kind, content))
    })
}

/// After the frame's tag and start code, two numbers of 14 bits; the bits above them scale.
fn lossy(content: &[u8]) -> Option<(u32, u32)> {
    let &[a, b, c, d] = content.get(6..10)? else { return None };
    let side = |bytes| u32::from(u16::from_le_bytes(bytes) & 0x3FFF);
    Some((side([a, b]), side([c, d])))
}

/// After the signature, two numbers of 14 bits, each one less than it means.
fn lossless(content: &[u8]) -> Option<(u32, u32)> {
    let bits = u32::from_le_bytes(content.get(1..5)?.try_into().ok()?);
    Some(((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1))
}

fn frame((kind, content): Chunk<'_>) -> Option<(u32, u32)> {
    match &kind {
        b"VP8 " => lossy(content),
        b"VP8L" => lossless(content),
        _ => None,
    }
}

/// The frame of an animation: behind its transparency, if that stands first, whatever its kind says.
fn animated(content: &[u8]) -> Option<(u32, u32)> {
    let mut parts = chunks(content.get(ANIMATION_HEADER..)?);
    let first = parts.next()?;
    if &first.0 == b"ALPH" { lossy(parts.next()?.1) } else { frame(first) }
}

/// A frame that may be decoded and does not fit into `canvas`: the picture's own, or the first of an animation.
pub(super) fn frame_beyond(webp: &[u8], canvas: (u32, u32)) -> Option<(u32, u32)> {
    let all = || chunks(webp.get(HEADER..).unwrap_or_default());
    let first = all().find(|(kind, _)| kind == b"ANMF").and_then(|(_, content)| animated(content));
    all().filter_map(frame).chain(first).find(|(width, height)| *width > canvas.0 || *height > canvas.1)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn chunk(kind: &[u8; 4], content: &[u8]) -> Vec<u8> {
        let padding = vec![0; content.len() % 2];
        [&kind[..], &(content.len() as u32).to_le_bytes(), content, &padding].concat()
    }

    fn vp8(width: u16, height: u16) -> Vec<u8> {
        [&[0x10, 0, 0, 0x9D, 0x01, 0x2A][..], &width.to_le_bytes(), &height.to_le_bytes(), &[0; 20]].concat()
    }

    fn vp8l(width: u32, height: u32) -> Vec<u8> {
        [&[0x2F][..], &((width - 1) | (height - 1) << 14).to_le_bytes(), &[0; 20]].concat()
    }

    fn file(canvas: (u32, u32), animated: bool, parts: &[Vec<u8>]) -> Vec<u8> {
        let side = |n: u32| (n - 1).to_le_bytes()[..3].to_vec();
        let flags = [if animated { 2 } else { 0 }, 0, 0, 0];
        let extended = chunk(b"VP8X", &[&flags[..], &side(canvas.0), &side(canvas.1)].concat());
        let body = [b"WEBP".to_vec(), extended, parts.concat()].concat();
        [b"RIFF".to_vec(), (body.len() as u32).to_le_bytes().to_vec(), body].concat()
    }

    /// The canvas is one pixel, the frame 16,383 x 16,383.
    pub(in super::super) fn bombs() -> Vec<Vec<u8>> {
        let large = chunk(b"VP8 ", &vp8(16383, 16383));
        let anim = chunk(b"ANIM", &[0; 6]);
        let part = |parts: &[Vec<u8>]| chunk(b"ANMF", &[vec![0; ANIMATION_HEADER], parts.concat()].concat());
        let alpha = chunk(b"ALPH", &[0, 0]);
        let odd = chunk(b"XXXX", &vp8(16383, 16383));
        vec![
            file((1, 1), false, std::slice::from_ref(&large)),
            file((1, 1), false, &[chunk(b"ICCP", &[7; 3]), large.clone()]),
            file((1, 1), true, &[anim.clone(), part(std::slice::from_ref(&large))]),
            file((1, 1), true, &[anim.clone(), part(&[alpha.clone(), large])]),
            file((1, 1), true, &[anim, part(&[alpha, odd])]),
        ]
    }

    #[test]
    fn finds_what_does_not_fit() {
        for (i, bomb) in bombs().iter().enumerate() {
            assert_eq!(frame_beyond(bomb, (1, 1)), Some((16383, 16383)), "{i}");
            assert_eq!(frame_beyond(bomb, (16383, 16382)), Some((16383, 16383)), "{i}");
            assert_eq!(frame_beyond(bomb, (16383, 16383)), None, "{i}");
        }
        // The bits above the size scale it where it is shown.
        let scaled = file((40, 30), false, &[chunk(b"VP8 ", &vp8(40 | 0x4000, 30 | 0xC000))]);
        assert_eq!(frame_beyond(&scaled, (40, 30)), None);
        let lossless = file((40, 30), false, &[chunk(b"VP8L", &vp8l(41, 30))]);
        assert_eq!((frame_beyond(&lossless, (40, 30)), frame_beyond(&lossless, (41, 30))), (Some((41, 30)), None));
    }

    #[test]
    fn what_is_cut_off_ends_the_search() {
        for bomb in bombs() {
            for end in 0..bomb.len() {
                let found = frame_beyond(&bomb[..end], (1, 1));
                assert!(found.is_none_or(|size| size == (16383, 16383)), "{end}");
            }
        }
        let endless = [&[0; HEADER][..], b"VP8X", &u32::MAX.to_le_bytes(), &[0; 40]].concat();
        assert_eq!(frame_beyond(&endless, (1, 1)), None);
    }
}
