//! What a request may hold. Pure: each check names the field and what is wrong with it.

use omma_common::error::{ApiError, Reason};
use omma_common::ids::{InvalidName, check_collection_name, check_image_id, check_request_id};
use omma_common::limits::{
    DEFAULT_K, MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES, MAX_DIMENSION, MAX_IDS, MAX_K, MAX_PUT_IMAGES,
};
use omma_common::session::Session;
use omma_common::vector;
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::new_image::Content;
use omma_proto::v1::{AttributeValue, Consistency, NewImage, Quantization, SessionToken, VectorSpace};
use prost::Message;

use crate::routing::Collection;
use crate::scatter::fan_out::Freshness;

/// Problems told at most in one answer.
const MAX_PROBLEMS: usize = 16;

fn named(field: &str, check: Result<(), InvalidName>) -> Result<(), ApiError> {
    check.map_err(|problem| ApiError::field(field, problem))
}

/// A collection's name.
pub(crate) fn collection_name(field: &str, name: &str) -> Result<(), ApiError> {
    named(field, check_collection_name(name))
}

/// A request id, or none.
pub(crate) fn request_id(id: &str) -> Result<(), ApiError> {
    named("request_id", check_request_id(id))
}

/// An image id.
pub(crate) fn image_id(field: &str, id: &str) -> Result<(), ApiError> {
    named(field, check_image_id(id))
}

fn count(field: &str, count: usize, most: usize) -> Result<(), ApiError> {
    match count {
        0 => Err(ApiError::field(field, "must not be empty")),
        n if n > most => Err(ApiError::field(field, format!("has {n} entries; at most {most} are allowed"))
            .with("limit", most)
            .with("actual", n)),
        _ => Ok(()),
    }
}

/// 1 to 1000 ids.
pub(crate) fn image_ids(ids: &[String]) -> Result<(), ApiError> {
    count("ids", ids.len(), MAX_IDS)?;
    all(ids.iter().enumerate().map(|(i, id)| image_id(&format!("ids[{i}]"), id)))
}

/// 1 to 64 queries.
pub(crate) fn query_count(queries: usize) -> Result<(), ApiError> {
    count("queries", queries, omma_common::limits::MAX_QUERIES)
}

/// Joins the problems of many parts into one error.
fn all(checks: impl Iterator<Item = Result<(), ApiError>>) -> Result<(), ApiError> {
    let mut problems = checks.filter_map(Result::err);
    let Some(mut first) = problems.next() else { return Ok(()) };
    for problem in problems.take(MAX_PROBLEMS - 1) {
        first.fields.extend(problem.fields);
    }
    if first.fields.len() > 1 {
        first.message = format!("{}; and {} more problems", first.message, first.fields.len() - 1);
    }
    Err(first)
}

/// The images of one put: count, different ids, and each by itself. Embeddings are normalised.
pub(crate) fn images(images: &mut [NewImage], collection: &Collection, picture_bytes: usize) -> Result<(), ApiError> {
    let mut seen = std::collections::HashMap::with_capacity(images.len());
    all(images.iter_mut().enumerate().map(|(i, new)| {
        image(&format!("images[{i}]"), new, collection, picture_bytes)?;
        match seen.insert(new.id.clone(), i) {
            None => Ok(()),
            Some(first) => {
                Err(ApiError::field(format!("images[{i}].id"), format!("is the same as images[{first}].id")))
            }
        }
    }))
}

/// How many images one put has.
pub(crate) fn image_count(images: &[NewImage]) -> Result<(), ApiError> {
    count("images", images.len(), MAX_PUT_IMAGES)
}

/// One image; `path` is its field in the request. Its embedding, if it has one, is scaled to unit length.
pub(crate) fn image(
    path: &str,
    image: &mut NewImage,
    collection: &Collection,
    picture_bytes: usize,
) -> Result<(), ApiError> {
    image_id(&format!("{path}.id"), &image.id)?;
    attributes(path, image)?;
    match &mut image.content {
        None => Err(ApiError::field(path, "has neither a picture nor an embedding")),
        Some(Content::Picture(bytes)) => picture(&format!("{path}.picture"), bytes, picture_bytes),
        Some(Content::Embedding(e)) => embedding(&format!("{path}.embedding"), &mut e.values, collection),
    }
}

/// An encoded picture's size.
pub(crate) fn picture(field: &str, bytes: &[u8], most: usize) -> Result<(), ApiError> {
    match bytes.len() {
        0 => Err(ApiError::bad_field(Reason::InvalidPicture, field, "must not be empty")),
        n if n > most => {
            let problem = format!("is {n} bytes large; at most {most} are allowed");
            Err(ApiError::bad_field(Reason::PictureTooLarge, field, problem).with("limit", most).with("actual", n))
        }
        _ => Ok(()),
    }
}

/// An embedding: checked and scaled to unit length.
pub(crate) fn embedding(field: &str, values: &mut [f32], collection: &Collection) -> Result<(), ApiError> {
    vector::normalise(values, collection.dimension())
        .map_err(|problem| ApiError::bad_field(Reason::InvalidEmbedding, field, problem))
}

fn attributes(path: &str, image: &NewImage) -> Result<(), ApiError> {
    let field = format!("{path}.attributes");
    if image.attributes.len() > MAX_ATTRIBUTES {
        let problem = format!("has {} entries; at most {MAX_ATTRIBUTES} are allowed", image.attributes.len());
        return Err(ApiError::field(field, problem).with("limit", MAX_ATTRIBUTES));
    }
    let bytes: usize = image.attributes.iter().map(|(name, value)| name.len() + value.encoded_len()).sum();
    if bytes > MAX_ATTRIBUTE_BYTES {
        let problem = format!("is {bytes} bytes large; at most {MAX_ATTRIBUTE_BYTES} are allowed");
        return Err(ApiError::field(field, problem).with("limit", MAX_ATTRIBUTE_BYTES));
    }
    for (name, value) in &image.attributes {
        attribute_name(name).map_err(|_| {
            let problem = format!("has the name {name:?}; allowed are names without control characters, not empty");
            ApiError::field(&field, problem)
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

/// Hits wanted: 0 means 10.
pub(crate) fn k(field: &str, k: u32) -> Result<usize, ApiError> {
    match k {
        0 => Ok(DEFAULT_K as usize),
        k if k > MAX_K => {
            Err(ApiError::field(field, format!("is {k}; 1 to {MAX_K} are allowed, and 0 for {DEFAULT_K}"))
                .with("limit", MAX_K))
        }
        k => Ok(k as usize),
    }
}

/// A least score: -1 to 1.
pub(crate) fn min_score(field: &str, score: Option<f32>) -> Result<Option<f32>, ApiError> {
    match score {
        Some(s) if !(-1.0..=1.0).contains(&s) => Err(ApiError::field(field, format!("is {s}; -1 to 1 are allowed"))),
        _ => Ok(score),
    }
}

/// Consistency and session tokens of a read.
pub(crate) fn freshness(consistency: i32, tokens: &[SessionToken]) -> Result<Freshness, ApiError> {
    let consistency = Consistency::try_from(consistency)
        .map_err(|_| ApiError::field("consistency", format!("is {consistency}, which is none of the levels")))?;
    let session = Session::from_tokens(tokens).map_err(|problem| ApiError::field("session_tokens", problem))?;
    Ok(Freshness {
        consistency: if consistency == Consistency::Unspecified { Consistency::Linearizable } else { consistency },
        session,
    })
}

/// A vector space of the caller's choice; the encoder's name stands for the encoder's dimension.
pub(crate) fn vector_space(space: &VectorSpace, encoder: Option<&VectorSpace>) -> Result<(), ApiError> {
    named("vector_space.id", check_request_id(&space.id))?;
    if space.id.is_empty() {
        return Err(ApiError::field("vector_space.id", InvalidName::Empty));
    }
    if !(1..=MAX_DIMENSION).contains(&space.dimension) {
        let problem = format!("is {}; 1 to {MAX_DIMENSION} are allowed", space.dimension);
        return Err(ApiError::field("vector_space.dimension", problem).with("limit", MAX_DIMENSION));
    }
    if let Some(encoder) = encoder.filter(|e| e.id == space.id && e.dimension != space.dimension) {
        let problem = format!("is {}; the encoder's space of this id has {}", space.dimension, encoder.dimension);
        return Err(ApiError::field("vector_space.dimension", problem).with("expected", encoder.dimension));
    }
    Ok(())
}

/// One that this version knows.
pub(crate) fn quantization(value: i32) -> Result<(), ApiError> {
    match Quantization::try_from(value) {
        Ok(_) => Ok(()),
        Err(_) => Err(ApiError::field("quantization", format!("is {value}, which this server does not know"))),
    }
}

/// Pictures can be used in a collection only if its vector space is the encoder's.
pub(crate) fn encodable(field: &str, collection: &Collection, encoder: Option<&VectorSpace>) -> Result<(), ApiError> {
    match encoder {
        Some(space) if Some(space) != collection.entry.vector_space.as_ref() => {
            let problem = format!(
                "cannot be encoded: the collection is in the vector space {:?}, the encoder's is {:?}; send an embedding",
                collection.space_id(),
                space.id
            );
            Err(ApiError::bad_field(Reason::VectorSpaceMismatch, field, problem))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use omma_proto::v1::Embedding;

    fn collection(dimension: u32) -> Collection {
        let space = VectorSpace { id: "s".into(), dimension };
        let entry = omma_proto::v1::Collection { name: "c".into(), vector_space: Some(space), ..Default::default() };
        Collection { entry, deleting: false }
    }

    fn with_embedding(id: &str, values: &[f32]) -> NewImage {
        let content = Some(Content::Embedding(Embedding { values: values.to_vec() }));
        NewImage { id: id.into(), content, ..Default::default() }
    }

    fn check(image: &mut NewImage) -> Result<(), ApiError> {
        super::image("image", image, &collection(2), 10)
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
        let error = images(&mut batch, &collection(2), 10).unwrap_err();
        let fields: Vec<_> = error.fields.iter().map(|f| f.0.as_str()).collect();
        assert_eq!(fields, ["images[1].id", "images[2].id", "images[3].embedding"]);
        assert!(error.fields[1].1.contains("images[0].id"));
        let mut many: Vec<_> = (0..200).map(|_| with_embedding("", &[])).collect();
        assert_eq!(images(&mut many, &collection(2), 10).unwrap_err().fields.len(), MAX_PROBLEMS);
        assert!(image_count(&[]).is_err());
        assert!(image_count(&vec![good(); 257]).is_err());
        assert!(image_count(&vec![good(); 256]).is_ok());
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
        assert!(with("x", Some(Kind::StringValue("y".repeat(MAX_ATTRIBUTE_BYTES)))).is_err());
        let mut many = with_embedding("a", &[1.0, 0.0]);
        many.attributes =
            (0..65).map(|i| (i.to_string(), AttributeValue { kind: Some(Kind::BoolValue(true)) })).collect();
        assert!(check(&mut many).is_err());
    }

    #[test]
    fn k_and_scores_have_ranges() {
        assert_eq!((k("k", 0).unwrap(), k("k", 1).unwrap(), k("k", 1000).unwrap()), (10, 1, 1000));
        assert_eq!(k("query.k", 1001).unwrap_err().fields[0].0, "query.k");
        assert!(min_score("s", None).is_ok() && min_score("s", Some(-1.0)).is_ok());
        for bad in [1.01, -1.5, f32::NAN, f32::INFINITY] {
            assert!(min_score("s", Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn reads_say_how_fresh() {
        assert_eq!(freshness(0, &[]).unwrap().consistency, Consistency::Linearizable);
        assert_eq!(freshness(9, &[]).unwrap_err().fields[0].0, "consistency");
        let token = SessionToken { value: vec![9, 9] };
        assert_eq!(freshness(2, &[token]).unwrap_err().fields[0].0, "session_tokens");
    }

    #[test]
    fn unknown_quantizations_are_refused() {
        assert!(quantization(0).is_ok() && quantization(Quantization::I8.into()).is_ok());
        assert!(quantization(99).is_err());
    }

    #[test]
    fn vector_spaces_have_names_and_dimensions() {
        let space = |id: &str, dimension| vector_space(&VectorSpace { id: id.into(), dimension }, None);
        assert!(space("clip", 512).is_ok() && space("x", 8192).is_ok());
        assert!(
            space("", 5).is_err() && space("x", 0).is_err() && space("x", 8193).is_err() && space("a b", 4).is_err()
        );
        let encoder = VectorSpace { id: "enc".into(), dimension: 3 };
        assert!(vector_space(&encoder, Some(&encoder)).is_ok());
        assert!(vector_space(&VectorSpace { dimension: 4, ..encoder.clone() }, Some(&encoder)).is_err());
        let ours = collection(2);
        assert!(encodable("f", &ours, None).is_ok());
        assert!(encodable("f", &ours, ours.entry.vector_space.as_ref()).is_ok());
        let other = VectorSpace { id: "t".into(), dimension: 2 };
        assert_eq!(encodable("f", &ours, Some(&other)).unwrap_err().reason, Reason::VectorSpaceMismatch);
    }
}
