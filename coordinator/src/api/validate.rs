//! What a request may hold. Pure: each check names the field and what is wrong with it.

use std::collections::{BTreeMap, HashMap};

use omma_common::error::{ApiError, Reason};
use omma_common::ids::{InvalidName, check_collection_name, check_image_id, check_request_id};
use omma_common::limits::{DEFAULT_K, MAX_DIMENSION};
use omma_common::session::Session;
use omma_common::vector;
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::new_image::Content;
use omma_proto::v1::{AttributeValue, Consistency, NewImage, Quantization, SessionToken, VectorSpace};
use prost::Message;

use crate::config::Limits;
use crate::routing::Collection;
use crate::scatter::fan_out::Freshness;

/// Problems told at most in one answer.
const MAX_PROBLEMS: usize = 16;

/// `limit` is the name of what a text of too many bytes has passed.
fn named(field: &str, limit: &'static str, check: Result<(), InvalidName>) -> Result<(), ApiError> {
    check.map_err(|problem| {
        let error = ApiError::field(field, &problem);
        match problem {
            InvalidName::TooLong { actual, limit: most } => error.over(limit, most).with("actual", actual),
            InvalidName::Empty | InvalidName::Character { .. } => error,
        }
    })
}

/// A collection's name.
pub(crate) fn collection_name(field: &str, name: &str) -> Result<(), ApiError> {
    named(field, "collection name bytes", check_collection_name(name))
}

/// A request id, or none.
pub(crate) fn request_id(id: &str) -> Result<(), ApiError> {
    named("request_id", "request id bytes", check_request_id(id))
}

/// An image id.
pub(crate) fn image_id(field: &str, id: &str) -> Result<(), ApiError> {
    named(field, "id bytes", check_image_id(id))
}

/// One entry at least, and at most as many as the limit `name` says.
pub(super) fn count(field: &str, count: usize, name: &'static str, most: usize) -> Result<(), ApiError> {
    match count {
        0 => Err(ApiError::field(field, "must not be empty")),
        n if n > most => Err(ApiError::field(field, format!("has {n} entries; at most {most} are allowed"))
            .over(name, most)
            .with("actual", n)),
        _ => Ok(()),
    }
}

/// The ids of one get or delete.
pub(crate) fn image_ids(ids: &[String], limits: &Limits) -> Result<(), ApiError> {
    count("ids", ids.len(), "max-ids", limits.sizes.max_ids)?;
    all(ids.iter().enumerate().map(|(i, id)| image_id(&format!("ids[{i}]"), id)))
}

/// How many queries one batch has.
pub(crate) fn query_count(queries: usize, limits: &Limits) -> Result<(), ApiError> {
    count("queries", queries, "max-queries", limits.sizes.max_queries)
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

/// Hits wanted: 0 means 10, or as many as are allowed if those are fewer.
pub(crate) fn k(field: &str, k: u32, limits: &Limits) -> Result<usize, ApiError> {
    let most = limits.sizes.max_k;
    match k as usize {
        0 => Ok(most.min(DEFAULT_K as usize)),
        k if k > most => {
            let problem = format!("is {k}; 1 to {most} are allowed, and 0 for {DEFAULT_K}");
            Err(ApiError::field(field, problem).over("max-k", most))
        }
        k => Ok(k),
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
    named("vector_space.id", "vector space id bytes", check_request_id(&space.id))?;
    if space.id.is_empty() {
        return Err(ApiError::field("vector_space.id", InvalidName::Empty));
    }
    if !(1..=MAX_DIMENSION).contains(&space.dimension) {
        let problem = format!("is {}; 1 to {MAX_DIMENSION} are allowed", space.dimension);
        return Err(ApiError::field("vector_space.dimension", problem).over("dimension", MAX_DIMENSION));
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
    use crate::limits::SizeArgs;
    use bytes::Bytes;
    use omma_proto::v1::Embedding;

    fn collection(dimension: u32) -> Collection {
        let space = VectorSpace { id: "s".into(), dimension };
        let entry = omma_proto::v1::Collection { name: "c".into(), vector_space: Some(space), ..Default::default() };
        Collection { entry, deleting: false }
    }

    fn limits() -> Limits {
        Limits { picture_bytes: 10, ..Limits::default() }
    }

    fn with_embedding(id: &str, values: &[f32]) -> NewImage {
        let content = Some(Content::Embedding(Embedding { values: values.to_vec() }));
        NewImage { id: id.into(), content, ..Default::default() }
    }

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

    #[test]
    fn what_is_over_a_lowered_limit_is_told_its_name_and_value() {
        let mut limits = limits();
        limits.sizes = SizeArgs { max_k: 5, max_queries: 2, max_put_images: 1, max_ids: 1, ..SizeArgs::default() };
        limits.sizes = SizeArgs { max_id_bytes: 3, max_attributes: 1, max_attribute_bytes: 20, ..limits.sizes };
        let attributes = |names: &[&str]| {
            let value = AttributeValue { kind: Some(Kind::BoolValue(true)) };
            let attributes: BTreeMap<_, _> = names.iter().map(|name| ((*name).to_owned(), value.clone())).collect();
            super::attributes("attributes", &attributes, &limits)
        };
        let (good, ids) = (with_embedding("a", &[1.0, 0.0]), ["a".to_owned(), "b".to_owned()]);
        for (outcome, name, value) in [
            (k("k", 6, &limits).map(drop), "max-k", "5"),
            (query_count(3, &limits), "max-queries", "2"),
            (image_count(&[good.clone(), good.clone()], &limits), "max-put-images", "1"),
            (image_ids(&ids, &limits), "max-ids", "1"),
            (new_id("id", "abcd", &limits), "max-id-bytes", "3"),
            (new_id("id", &"x".repeat(300), &limits), "max-id-bytes", "3"),
            (image_id("id", &"x".repeat(300)), "id bytes", "256"),
            (collection_name("name", &"x".repeat(65)), "collection name bytes", "64"),
            (request_id(&"x".repeat(65)), "request id bytes", "64"),
            (attributes(&["a", "b"]), "max-attributes", "1"),
            (attributes(&["a name of some length"]), "max-attribute-bytes", "20"),
            (picture("picture", &[0; 11], &limits), "max-picture-bytes", "10"),
        ] {
            let told = outcome.unwrap_err().metadata;
            assert_eq!(told[..2], [("limit_name", name.to_owned()), ("limit", value.to_owned())]);
        }
        assert_eq!(k("k", 0, &limits).unwrap(), 5);
        assert!(image_id("id", "abcd").is_ok(), "one that is stored already");
        assert!(image_count(&[good], &limits).is_ok() && attributes(&["a"]).is_ok());
    }

    #[test]
    fn k_and_scores_have_ranges() {
        let of = |wanted| k("query.k", wanted, &limits());
        assert_eq!((of(0).unwrap(), of(1).unwrap(), of(1000).unwrap()), (10, 1, 1000));
        assert_eq!(of(1001).unwrap_err().fields[0].0, "query.k");
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
