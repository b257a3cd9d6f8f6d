//! Images that are to be stored: ids, pictures, embeddings, attributes.

use std::collections::{BTreeMap, HashMap};

use omma_common::error::{ApiError, Reason};
use omma_common::ids::InvalidName;
use omma_common::vector;
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::new_image::Content;
use omma_proto::v1::{AttributeValue, NewImage};
use prost::Message;

use super::{all, count, image_id, named};
use crate::config::Limits;
use crate::routing::Collection;

/// The images of one put: count, different ids, and each by itself. Embeddings are normalised.
pub(crate) fn images(images: &mut [NewImage], collection: &Collection, limits: &Limits) -> Result<(), ApiError> {
    let mut seen = HashMap::with_capacity(images.len());
    all(images.iter_mut().enumerate().map(|(i, new)| {
        image(&format!("images[{i}]"), new, collection, limits)?;
        match seen.insert(new.id.clone(), i) {
            None => Ok(()),
            Some(first) => {
                Err(ApiError::field(format!("images[{i}].id"), format!("is the same as images[{first}].id")))
            }
        }
    }))
}

/// How many images one put has.
pub(crate) fn image_count(images: &[NewImage], limits: &Limits) -> Result<(), ApiError> {
    count("images", images.len(), "max-put-images", limits.sizes.max_put_images)
}

/// One image; `path` is its field in the request. Its embedding, if it has one, is scaled to unit length.
pub(crate) fn image(
    path: &str,
    image: &mut NewImage,
    collection: &Collection,
    limits: &Limits,
) -> Result<(), ApiError> {
    new_id(&format!("{path}.id"), &image.id, limits)?;
    attributes(&format!("{path}.attributes"), &image.attributes, limits)?;
    match &mut image.content {
        None => Err(ApiError::field(path, "has neither a picture nor an embedding")),
        Some(Content::Picture(bytes)) => picture(&format!("{path}.picture"), bytes, limits),
        Some(Content::Embedding(e)) => embedding(&format!("{path}.embedding"), &mut e.values, collection),
    }
}

/// The id of an image that is to be stored.
pub(crate) fn new_id(field: &str, id: &str, limits: &Limits) -> Result<(), ApiError> {
    let (actual, limit) = (id.len(), limits.sizes.max_id_bytes);
    if actual > limit {
        return named(field, "max-id-bytes", Err(InvalidName::TooLong { actual, limit }));
    }
    image_id(field, id)
}

/// An encoded picture's size.
pub(crate) fn picture(field: &str, bytes: &[u8], limits: &Limits) -> Result<(), ApiError> {
    let most = limits.picture_bytes;
    match bytes.len() {
        0 => Err(ApiError::bad_field(Reason::InvalidPicture, field, "must not be empty")),
        n if n > most => {
            let problem = format!("is {n} bytes large; at most {most} are allowed");
            let error = ApiError::bad_field(Reason::PictureTooLarge, field, problem);
            Err(error.over("max-picture-bytes", most).with("actual", n))
        }
        _ => Ok(()),
    }
}

/// An embedding: checked and scaled to unit length.
pub(crate) fn embedding(field: &str, values: &mut [f32], collection: &Collection) -> Result<(), ApiError> {
    vector::normalise(values, collection.dimension())
        .map_err(|problem| ApiError::bad_field(Reason::InvalidEmbedding, field, problem))
}

/// The attributes of an image that is to be stored.
pub(crate) fn attributes(
    field: &str,
    attributes: &BTreeMap<String, AttributeValue>,
    limits: &Limits,
) -> Result<(), ApiError> {
    let (most, most_bytes) = (limits.sizes.max_attributes, limits.sizes.max_attribute_bytes);
    if attributes.len() > most {
        let problem = format!("has {} entries; at most {most} are allowed", attributes.len());
        return Err(ApiError::field(field, problem).over("max-attributes", most));
    }
    let bytes: usize = attributes.iter().map(|(name, value)| name.len() + value.encoded_len()).sum();
    if bytes > most_bytes {
        let problem = format!("is {bytes} bytes large; at most {most_bytes} are allowed");
        return Err(ApiError::field(field, problem).over("max-attribute-bytes", most_bytes));
    }
    for (name, value) in attributes {
        attribute_name(name).map_err(|_| {
            let problem = format!("has the name {name:?}; allowed are names without control characters, not empty");
            ApiError::field(field, problem)
        })?;
        attribute(value).map_err(|problem| ApiError::field(format!("{field}[{name:?}]"), problem))?;
    }
    Ok(())
}

/// An attribute's name; an error continues the sentence "the name …".
pub(crate) fn attribute_name(name: &str) -> Result<(), &'static str> {
    match name.chars().any(char::is_control) {
        _ if name.is_empty() => Err("must not be empty"),
        true => Err("must not hold control characters"),
        false => Ok(()),
    }
}

/// An attribute's value; an error continues the sentence "the value …".
pub(crate) fn attribute(value: &AttributeValue) -> Result<(), &'static str> {
    // 0001-01-01 to 9999-12-31, as google.protobuf.Timestamp says.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
    match &value.kind {
        None => Err("has no value"),
        Some(Kind::FloatValue(x)) if !x.is_finite() => Err("must be finite"),
        Some(Kind::TimestampValue(t)) if !SECONDS.contains(&t.seconds) || !(0..1_000_000_000).contains(&t.nanos) => {
            Err("is no time between the years 1 and 9999")
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use omma_proto::v1::Embedding;

    use super::super::MAX_PROBLEMS;
    use super::super::tests::{collection, limits, with_embedding};
    use super::*;

    fn check(image: &mut NewImage) -> Result<(), ApiError> {
        super::image("image", image, &collection(2), &limits())
    }

    #[test]
    fn embeddings_are_normalised_or_refused() {
        let mut good = with_embedding("a", &[3.0, 4.0]);
        check(&mut good).unwrap();
        assert_eq!(good.content, Some(Content::Embedding(Embedding { values: vec![0.6, 0.8] })));
        for bad in [&[0.0, 0.0][..], &[f32::NAN, 1.0], &[1.0, f32::NEG_INFINITY], &[1.0], &[1.0, 2.0, 3.0], &[]] {
            let error = check(&mut with_embedding("a", bad)).unwrap_err();
            assert_eq!(error.reason, Reason::InvalidEmbedding, "{bad:?}");
            assert_eq!(error.fields[0].0, "image.embedding");
        }
    }

    #[test]
    fn ids_may_be_odd_but_not_controlling() {
        for ok in ["Ωμμα", "e\u{301}", "👁️‍🗨️", "\u{202e}abc", &"x".repeat(256)] {
            check(&mut with_embedding(ok, &[1.0, 0.0])).unwrap();
        }
        for bad in ["", "a\0", "line\nbreak", &"x".repeat(257)] {
            let error = check(&mut with_embedding(bad, &[1.0, 0.0])).unwrap_err();
            assert_eq!((error.reason, error.fields[0].0.as_str()), (Reason::InvalidArgument, "image.id"));
        }
    }

    #[test]
    fn pictures_have_a_size() {
        let sized = |n| {
            let content = Some(Content::Picture(Bytes::from(vec![0; n])));
            check(&mut NewImage { id: "a".into(), content, ..Default::default() }).map_err(|e| e.reason)
        };
        assert_eq!(sized(10), Ok(()));
        assert_eq!(sized(11), Err(Reason::PictureTooLarge));
        assert_eq!(sized(0), Err(Reason::InvalidPicture));
        let nothing = check(&mut NewImage { id: "a".into(), ..Default::default() }).unwrap_err();
        assert_eq!(nothing.fields[0].0, "image");
    }

    #[test]
    fn all_problems_of_a_put_are_told_with_their_places() {
        let good = || with_embedding("a", &[1.0, 0.0]);
        let mut batch = vec![good(), with_embedding("", &[1.0, 0.0]), good(), with_embedding("d", &[0.0, 0.0])];
        let error = images(&mut batch, &collection(2), &limits()).unwrap_err();
        let fields: Vec<_> = error.fields.iter().map(|f| f.0.as_str()).collect();
        assert_eq!(fields, ["images[1].id", "images[2].id", "images[3].embedding"]);
        assert!(error.fields[1].1.contains("images[0].id"));
        let mut many: Vec<_> = (0..200).map(|_| with_embedding("", &[])).collect();
        assert_eq!(images(&mut many, &collection(2), &limits()).unwrap_err().fields.len(), MAX_PROBLEMS);
        assert!(image_count(&[], &limits()).is_err());
        assert!(image_count(&vec![good(); 257], &limits()).is_err());
        assert!(image_count(&vec![good(); 256], &limits()).is_ok());
    }

    #[test]
    fn attributes_are_few_small_and_typed() {
        let with = |name: &str, kind| {
            let mut image = with_embedding("a", &[1.0, 0.0]);
            image.attributes.insert(name.into(), AttributeValue { kind });
            check(&mut image).map_err(|e| e.fields[0].0.clone())
        };
        let time = |seconds, nanos| Some(Kind::TimestampValue(prost_types::Timestamp { seconds, nanos }));
        assert!(with("ok", Some(Kind::FloatValue(1.5))).is_ok());
        assert!(with("ok", time(0, 999_999_999)).is_ok());
        assert_eq!(with("x", None).unwrap_err(), "image.attributes[\"x\"]");
        assert!(with("x", Some(Kind::FloatValue(f64::NAN))).is_err());
        assert!(with("x", time(0, -1)).is_err());
        assert!(with("x", time(i64::MAX, 0)).is_err());
        assert!(with("", Some(Kind::BoolValue(true))).is_err());
        assert!(with("x", Some(Kind::StringValue("y".repeat(64 << 10)))).is_err());
        let mut many = with_embedding("a", &[1.0, 0.0]);
        many.attributes =
            (0..65).map(|i| (i.to_string(), AttributeValue { kind: Some(Kind::BoolValue(true)) })).collect();
        assert!(check(&mut many).is_err());
    }
}
