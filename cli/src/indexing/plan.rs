//! Which pictures need to be sent, and with which attributes: a pure decision.

use std::collections::HashMap;

use omma_client::proto::Image;

use super::attributes::{Attributes, Given};

/// What to do with a picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Decision {
    /// The collection holds these very bytes and attributes under this id.
    Unchanged,
    /// It does not.
    Send(Attributes),
}

/// Stored images by id.
pub(super) fn by_id(stored: Vec<Image>) -> HashMap<String, Image> {
    stored.into_iter().map(|image| (image.id.clone(), image)).collect()
}

/// An image that was put as an embedding has no digest: its picture is sent. What is not given attributes keeps those
/// that it has.
pub(super) fn decide(id: &str, digest: &[u8], stored: &HashMap<String, Image>, given: &Given) -> Decision {
    let stored = stored.get(id);
    let attributes = given.get(id).or(stored.map(|image| &image.attributes)).cloned().unwrap_or_default();
    match stored {
        Some(known) if known.content_digest == digest && known.attributes == attributes => Decision::Unchanged,
        _ => Decision::Send(attributes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_client::attributes::integer;

    fn attributes(n: i64) -> Attributes {
        Attributes::from([("n".to_owned(), integer(n))])
    }

    #[test]
    fn only_the_same_bytes_and_attributes_under_the_same_id_are_left_out() {
        let image = |id: &str, digest: &[u8]| Image {
            id: id.into(),
            content_digest: digest.to_vec(),
            attributes: attributes(1),
            ..Image::default()
        };
        let stored = by_id(vec![image("same", b"1"), image("changed", b"1"), image("embedding", b"")]);
        let nothing = Given::new();
        assert_eq!(decide("same", b"1", &stored, &nothing), Decision::Unchanged);
        assert_eq!(decide("changed", b"2", &stored, &nothing), Decision::Send(attributes(1)));
        assert_eq!(decide("embedding", b"2", &stored, &nothing), Decision::Send(attributes(1)));
        assert_eq!(decide("new", b"2", &stored, &nothing), Decision::Send(Attributes::new()));

        let given = Given::from([("same".to_owned(), attributes(2)), ("new".to_owned(), attributes(3))]);
        assert_eq!(decide("same", b"1", &stored, &given), Decision::Send(attributes(2)));
        assert_eq!(decide("new", b"2", &stored, &given), Decision::Send(attributes(3)));
        assert_eq!(decide("changed", b"1", &stored, &given), Decision::Unchanged);
        let same = Given::from([("same".to_owned(), attributes(1))]);
        assert_eq!(decide("same", b"1", &stored, &same), Decision::Unchanged);
    }
}
