//! Names: of images, collections, requests, nodes and groups, and what is allowed in them.

use crate::limits::{MAX_COLLECTION_NAME_BYTES, MAX_ID_BYTES, MAX_REQUEST_ID_BYTES};

/// A shard node. Drawn at random when its data folder is made, never 0, never used again.
pub type NodeId = u64;

/// A Raft group: [`METADATA_GROUP`] or a shard group.
pub type GroupId = u32;

/// The group that owns collections, nodes and the cluster map. Shard groups count from 1.
pub const METADATA_GROUP: GroupId = 0;

/// Why a name is refused. The text says what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidName {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// Too many bytes.
    #[error("is {actual} bytes long; at most {limit} are allowed")]
    TooLong {
        /// Bytes given.
        actual: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// A character that is not allowed.
    #[error("has the character {found:?} at byte {at}; allowed are {allowed}")]
    Character {
        /// The first offender.
        found: char,
        /// Its byte offset.
        at: usize,
        /// What would be fine.
        allowed: &'static str,
    },
}

fn check_length(text: &str, limit: usize) -> Result<(), InvalidName> {
    match text.len() {
        0 => Err(InvalidName::Empty),
        n if n > limit => Err(InvalidName::TooLong { actual: n, limit }),
        _ => Ok(()),
    }
}

fn check_characters(text: &str, allowed: &'static str, ok: impl Fn(usize, char) -> bool) -> Result<(), InvalidName> {
    match text.char_indices().find(|&(at, c)| !ok(at, c)) {
        Some((at, found)) => Err(InvalidName::Character { found, at, allowed }),
        None => Ok(()),
    }
}

/// An image id: 1 to 256 bytes of UTF-8 without control characters. Compared byte by byte: ids that merely look
/// alike (other Unicode normalisation) are different ids.
pub fn check_image_id(id: &str) -> Result<(), InvalidName> {
    check_length(id, MAX_ID_BYTES)?;
    check_characters(id, "all characters but control characters", |_, c| !c.is_control())
}

/// A collection name: 1 to 64 of `a-z 0-9 - _`, beginning with a letter or digit.
pub fn check_collection_name(name: &str) -> Result<(), InvalidName> {
    check_length(name, MAX_COLLECTION_NAME_BYTES)?;
    check_characters(name, "a-z, 0-9, and after the first also '-' and '_'", |at, c| {
        c.is_ascii_lowercase() || c.is_ascii_digit() || (at > 0 && (c == '-' || c == '_'))
    })
}

/// As much of a name as a collection's may have: for logs and refusals, where nobody has checked it yet.
pub fn shown_collection_name(name: &str) -> &str {
    &name[..name.floor_char_boundary(MAX_COLLECTION_NAME_BYTES)]
}

/// A request id: empty (none), or up to 64 visible ASCII characters, such as a UUID.
pub fn check_request_id(id: &str) -> Result<(), InvalidName> {
    if id.is_empty() {
        return Ok(());
    }
    check_length(id, MAX_REQUEST_ID_BYTES)?;
    check_characters(id, "visible ASCII characters", |_, c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_ids_are_utf8_without_control_characters() {
        for ok in ["a", "shop/1 2.jpg", "Ωμμα", "e\u{301}", "👁️‍🗨️", &"x".repeat(256)] {
            assert_eq!(check_image_id(ok), Ok(()), "{ok}");
        }
        assert_eq!(check_image_id(""), Err(InvalidName::Empty));
        assert!(matches!(check_image_id(&"é".repeat(129)), Err(InvalidName::TooLong { actual: 258, .. })));
        for bad in ["a\0b", "a\nb", "\u{7f}", "\u{85}"] {
            assert!(matches!(check_image_id(bad), Err(InvalidName::Character { .. })), "{bad:?}");
        }
    }

    #[test]
    fn collection_names_are_plain() {
        for ok in ["photos", "a", "0-shop_x"] {
            assert_eq!(check_collection_name(ok), Ok(()));
        }
        for bad in ["", "-a", "_a", "Photos", "a b", "ä", &"a".repeat(65)] {
            assert!(check_collection_name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_name_that_is_none_is_shown_in_part() {
        assert_eq!(shown_collection_name("photos"), "photos");
        assert_eq!(shown_collection_name(&"é".repeat(1000)), "é".repeat(32));
        assert_eq!(shown_collection_name(&format!("x{}", "é".repeat(1000))).len(), 63);
    }

    #[test]
    fn request_ids_may_be_left_out() {
        assert_eq!(check_request_id(""), Ok(()));
        assert_eq!(check_request_id("0b8f0c5e-7b4f-4c8e-9d53-0e6f6f7a1f10"), Ok(()));
        assert!(check_request_id("a b").is_err());
        assert!(check_request_id(&"a".repeat(65)).is_err());
    }
}
