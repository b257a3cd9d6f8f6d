//! Which pictures need to be sent: a pure decision.

use std::collections::HashMap;

use omma_client::proto::Image;

/// What to do with a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// The collection holds these very bytes under this id.
    Unchanged,
    /// It does not.
    Send,
}

/// Content digests of the stored images, by id.
pub(super) fn digests(stored: Vec<Image>) -> HashMap<String, Vec<u8>> {
    stored.into_iter().map(|image| (image.id, image.content_digest)).collect()
}

/// An image that was put as an embedding has no digest: its picture is sent.
pub(super) fn decide(id: &str, digest: &[u8], stored: &HashMap<String, Vec<u8>>) -> Decision {
    match stored.get(id) {
        Some(known) if !known.is_empty() && known == digest => Decision::Unchanged,
        _ => Decision::Send,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_bytes_under_the_same_id_are_left_out() {
        let image =
            |id: &str, digest: &[u8]| Image { id: id.into(), content_digest: digest.to_vec(), ..Image::default() };
        let stored = digests(vec![image("same", b"1"), image("changed", b"1"), image("embedding", b"")]);
        assert_eq!(decide("same", b"1", &stored), Decision::Unchanged);
        for id in ["changed", "new"] {
            assert_eq!(decide(id, b"2", &stored), Decision::Send, "{id}");
        }
        assert_eq!(decide("embedding", b"", &stored), Decision::Send);
    }
}
