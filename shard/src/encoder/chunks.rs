//! A PNG without what nobody looks at: texts and colour profiles, which its decoder would inflate. W3C PNG, 5.3.

use std::borrow::Cow;

/// The signature, before the first chunk.
const SIGNATURE: usize = 8;
/// Of each chunk: length, kind and checksum.
const FRAME: usize = 12;
const UNWANTED: [&[u8]; 4] = [b"iCCP", b"zTXt", b"iTXt", b"tEXt"];

/// The kind of the chunk that `bytes` begin with, and its size, frame included; `None` if it is not all there.
fn chunk(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
    let size = usize::try_from(length).ok()?.checked_add(FRAME)?;
    (size <= bytes.len()).then_some((bytes.get(4..8)?, size))
}

/// `png` without the unwanted chunks before its pixels; as it is, if there are none. What is no chunk stays: it is the
/// decoder's to refuse.
pub(super) fn bare(png: &[u8]) -> Cow<'_, [u8]> {
    let mut rest = png.get(SIGNATURE..).unwrap_or_default();
    let mut kept: Option<Vec<u8>> = None;
    while let Some((kind, size)) = chunk(rest) {
        if kind == b"IDAT" {
            break;
        }
        let (whole, next) = rest.split_at(size);
        if UNWANTED.contains(&kind) {
            kept.get_or_insert_with(|| png[..png.len() - rest.len()].to_vec());
        } else if let Some(kept) = &mut kept {
            kept.extend_from_slice(whole);
        }
        rest = next;
    }
    match kept {
        None => Cow::Borrowed(png),
        Some(mut kept) => {
            kept.extend_from_slice(rest);
            Cow::Owned(kept)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_of(kinds: &[&[u8; 4]]) -> Vec<u8> {
        let chunk = |kind: &&[u8; 4]| [&3u32.to_be_bytes()[..], &kind[..], b"xyz", &[0; 4]].concat();
        [b"\x89PNG\r\n\x1a\n".to_vec(), kinds.iter().flat_map(chunk).collect()].concat()
    }

    #[test]
    fn only_texts_and_profiles_before_the_pixels_go() {
        let plain = made_of(&[b"IHDR", b"eXIf", b"PLTE", b"IDAT", b"IEND"]);
        assert!(matches!(bare(&plain), Cow::Borrowed(same) if same == plain));
        let full = made_of(&[b"IHDR", b"iCCP", b"eXIf", b"zTXt", b"PLTE", b"tEXt", b"iTXt", b"IDAT", b"IEND"]);
        assert_eq!(bare(&full), plain);
        let after = made_of(&[b"IHDR", b"IDAT", b"zTXt", b"IEND"]);
        assert_eq!(bare(&after), after);
    }

    #[test]
    fn what_is_no_chunk_stays() {
        let whole = made_of(&[b"IHDR", b"tEXt", b"PLTE"]);
        for end in 0..whole.len() {
            let cut = &whole[..end];
            // The second chunk is 15 bytes from byte 23 on.
            let expected = if end < 38 { cut.to_vec() } else { [&cut[..23], &cut[38..]].concat() };
            assert_eq!(bare(cut), expected, "{end}");
        }
        let endless = [&whole[..8], &u32::MAX.to_be_bytes(), b"tEXt"].concat();
        assert_eq!(bare(&endless), endless);
    }
}
