//! What a request may hold. Pure: each check names the field and what is wrong with it.

mod images;
mod reads;
mod spaces;

use omma_common::error::ApiError;
use omma_common::ids::{InvalidName, check_collection_name, check_image_id, check_request_id};

pub(crate) use self::images::{
    attribute, attribute_name, attributes, embedding, image, image_count, images, new_id, picture,
};
pub(crate) use self::reads::{freshness, k, min_score, query_count};
pub(crate) use self::spaces::{encodable, quantization, vector_space};
use crate::config::Limits;

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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use omma_proto::v1::attribute_value::Kind;
    use omma_proto::v1::new_image::Content;
    use omma_proto::v1::{AttributeValue, Embedding, NewImage, VectorSpace};

    use super::*;
    use crate::limits::SizeArgs;
    use crate::routing::Collection;

    pub(super) fn collection(dimension: u32) -> Collection {
        let space = VectorSpace { id: "s".into(), dimension };
        let entry = omma_proto::v1::Collection { name: "c".into(), vector_space: Some(space), ..Default::default() };
        Collection { entry, deleting: false }
    }

    pub(super) fn limits() -> Limits {
        Limits { picture_bytes: 10, ..Limits::default() }
    }

    pub(super) fn with_embedding(id: &str, values: &[f32]) -> NewImage {
        let content = Some(Content::Embedding(Embedding { values: values.to_vec() }));
        NewImage { id: id.into(), content, ..Default::default() }
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
}
