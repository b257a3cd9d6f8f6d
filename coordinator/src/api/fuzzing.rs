//! Messages of the public API through the checks that their handlers make before anything else.

use omma_common::error::ApiError;
use omma_proto::v1 as pb;
use omma_proto::v1::query::Target;
use prost::Message;

use super::{filter, pages, validate};
use crate::access::Scoped;
use crate::config::Limits;
use crate::routing::Collection;

type Checked = Result<(), ApiError>;

/// The first byte says which message the rest is. A refusal is short and names its field; what is taken may be encoded
/// again.
///
/// # Panics
/// If a refusal is not so.
pub fn requests(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let checked = match kind % 10 {
        0 => message(bytes, |m: pb::SearchRequest| search(&m)),
        1 => message(bytes, |m: pb::BatchSearchRequest| batch_search(&m)),
        2 => message(bytes, put),
        3 => message(bytes, ingest),
        4 => message(bytes, |m: pb::BatchGetImagesRequest| {
            validate::collection_name("collection", m.scope().collection())?;
            validate::image_ids(&m.ids, &Limits::default())?;
            validate::freshness(m.consistency, &m.session_tokens).map(drop)
        }),
        5 => message(bytes, |m: pb::DeleteImagesRequest| {
            validate::collection_name("collection", m.scope().collection())?;
            validate::image_ids(&m.ids, &Limits::default())?;
            validate::request_id(&m.request_id)
        }),
        6 => message(bytes, |m: pb::CreateCollectionRequest| {
            validate::collection_name("name", m.scope().collection())?;
            validate::request_id(&m.request_id)?;
            m.vector_space.map_or(Ok(()), |space| validate::vector_space(&space, None))
        }),
        7 => message(bytes, |m: pb::ListCollectionsRequest| {
            pages::size(m.page_size)?;
            pages::read_token("ListCollections", &m.page_token).map(drop)
        }),
        8 => message(bytes, |m: pb::ListMovesRequest| {
            pages::size(m.page_size)?;
            pages::read_token("ListMoves", &m.page_token).map(drop)
        }),
        _ => message(bytes, |m: pb::GetImageRequest| {
            validate::collection_name("collection", m.scope().collection())?;
            validate::image_id("id", &m.id)?;
            validate::freshness(m.consistency, &m.session_tokens).map(drop)
        }),
    };
    if let Err(error) = checked {
        assert!(!error.fields.is_empty(), "{error:?} names no field");
        // A refusal goes into headers: it must not grow with the request.
        let largest = error.to_rpc_status().encoded_len();
        assert!(largest < 64 << 10, "{largest} bytes of refusal");
    }
}

/// Bytes that are no such message are the transport's to refuse.
fn message<M: Message + Default>(bytes: &[u8], check: impl FnOnce(M) -> Checked) -> Checked {
    M::decode(bytes).map_or(Ok(()), check)
}

fn collection() -> Collection {
    let space = pb::VectorSpace { id: "s".into(), dimension: 2 };
    let entry = pb::Collection { name: "c".into(), vector_space: Some(space), ..Default::default() };
    Collection { entry, deleting: false }
}

fn search(request: &pb::SearchRequest) -> Checked {
    validate::collection_name("collection", request.scope().collection())?;
    validate::freshness(request.consistency, &request.session_tokens)?;
    request.query.as_ref().map_or(Ok(()), |wanted| query("query", wanted))
}

fn batch_search(request: &pb::BatchSearchRequest) -> Checked {
    validate::query_count(request.queries.len(), &Limits::default())?;
    request.queries.iter().enumerate().try_for_each(|(i, wanted)| query(&format!("queries[{i}]"), wanted))
}

fn query(path: &str, query: &pb::Query) -> Checked {
    validate::k(&format!("{path}.k"), query.k, &Limits::default())?;
    validate::min_score(&format!("{path}.min_score"), query.min_score)?;
    if let Some(wanted) = &query.filter {
        filter::check(&format!("{path}.filter"), wanted)?;
        assert_eq!(pb::Filter::decode(&wanted.encode_to_vec()[..]).as_ref(), Ok(wanted));
    }
    match query.target.clone() {
        Some(Target::Embedding(mut e)) => {
            validate::embedding(&format!("{path}.embedding"), &mut e.values, &collection())?;
            let length: f32 = e.values.iter().map(|x| x * x).sum();
            assert!((length - 1.0).abs() < 1e-3, "length {length}");
            Ok(())
        }
        Some(Target::Picture(bytes)) => validate::picture(&format!("{path}.picture"), &bytes, &Limits::default()),
        Some(Target::ImageId(id)) => validate::image_id(&format!("{path}.image_id"), &id),
        None => Ok(()),
    }
}

fn put(mut request: pb::PutImagesRequest) -> Checked {
    validate::collection_name("collection", request.scope().collection())?;
    validate::request_id(&request.request_id)?;
    validate::image_count(&request.images, &Limits::default())?;
    validate::images(&mut request.images, &collection(), &Limits::default())
}

fn ingest(request: pb::IngestImagesRequest) -> Checked {
    validate::request_id(&request.request_id)?;
    let Some(mut image) = request.image else { return Ok(()) };
    validate::image("image", &mut image, &collection(), &Limits::default())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_file_of_the_corpus_is_harmless() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../integration-tests/fuzz/corpus/requests");
        let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        files.iter().for_each(|file| requests(&std::fs::read(file).unwrap()));
    }

    /// Writes them below `OMMA_FUZZ_SEEDS`, if that is set.
    #[test]
    fn every_seed_is_harmless() {
        let into = std::env::var_os("OMMA_FUZZ_SEEDS").map(|folder| PathBuf::from(folder).join("requests"));
        for (kind, message) in (0u8..).zip(seeds()) {
            let seed = [vec![kind], message].concat();
            requests(&seed);
            if let Some(into) = &into {
                std::fs::create_dir_all(into).unwrap();
                std::fs::write(into.join(format!("seed-{kind}")), seed).unwrap();
            }
        }
    }

    /// In the order of the kinds of `requests`.
    fn seeds() -> Vec<Vec<u8>> {
        use pb::filter::Condition;
        use pb::range_condition::Lower;
        let (name, ids) = ("c".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        let number = pb::AttributeValue { kind: Some(pb::attribute_value::Kind::IntegerValue(7)) };
        let equals = pb::EqualsCondition { attribute: "size".into(), value: Some(number.clone()) };
        let lower = Some(Lower::AtLeast(number.clone()));
        let range = pb::RangeCondition { attribute: "size".into(), lower, upper: None };
        let of = |condition| pb::Filter { condition: Some(condition) };
        let both = pb::FilterList { filters: vec![of(Condition::Equals(equals)), of(Condition::Range(range))] };
        let filter = Some(of(Condition::Negation(Box::new(of(Condition::AllOf(both))))));
        let target = Some(Target::Embedding(pb::Embedding { values: vec![0.6, 0.8] }));
        let query = pb::Query { target, filter, k: 10, min_score: Some(0.5) };
        let content = Some(pb::new_image::Content::Picture(vec![0xFF, 0xD8].into()));
        let image = pb::NewImage { id: "a".into(), content, attributes: [("size".to_owned(), number)].into() };
        let vector_space = Some(pb::VectorSpace { id: "s".into(), dimension: 2 });
        let page_token = pages::write_token("c");
        vec![
            pb::SearchRequest { collection: name.clone(), query: Some(query.clone()), ..Default::default() }
                .encode_to_vec(),
            pb::BatchSearchRequest { collection: name.clone(), queries: vec![query], ..Default::default() }
                .encode_to_vec(),
            pb::PutImagesRequest { collection: name.clone(), images: vec![image.clone()], request_id: "r".into() }
                .encode_to_vec(),
            pb::IngestImagesRequest { collection: name.clone(), image: Some(image), ..Default::default() }
                .encode_to_vec(),
            pb::BatchGetImagesRequest { collection: name.clone(), ids: ids.clone(), ..Default::default() }
                .encode_to_vec(),
            pb::DeleteImagesRequest { collection: name.clone(), ids, ..Default::default() }.encode_to_vec(),
            pb::CreateCollectionRequest { name: name.clone(), vector_space, ..Default::default() }.encode_to_vec(),
            pb::ListCollectionsRequest { page_size: 5, page_token: page_token.clone() }.encode_to_vec(),
            pb::ListMovesRequest { page_size: 5, page_token }.encode_to_vec(),
            pb::GetImageRequest { collection: name, id: "a".into(), ..Default::default() }.encode_to_vec(),
        ]
    }
}
