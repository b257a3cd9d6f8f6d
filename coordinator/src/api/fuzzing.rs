//! Messages of the public API through the checks that their handlers make before anything else.

use omma_common::error::ApiError;
use omma_proto::v1 as pb;
use omma_proto::v1::query::Target;
use prost::Message;

use super::{backup, filter, nodes, pages, validate};
use crate::access::Scoped;
use crate::config::Limits;
use crate::routing::Collection;

type Checked = Result<(), ApiError>;

macro_rules! kinds {
    ($($message:ident => $check:expr,)*) => {
        /// Each message that a client can send, and its checks. New ones come last: the corpus goes by the order.
        const KINDS: &[(&str, fn(&[u8]) -> Checked)] =
            &[$((stringify!($message), |bytes| message::<pb::$message>(bytes, $check)),)*];
    };
}

kinds! {
    SearchRequest => |m| search(&m),
    BatchSearchRequest => |m| batch_search(&m),
    PutImagesRequest => put,
    IngestImagesRequest => ingest,
    BatchGetImagesRequest => |m| {
        validate::collection_name("collection", m.scope().collection())?;
        validate::image_ids(&m.ids, &Limits::default())?;
        validate::freshness(m.consistency, &m.session_tokens).map(drop)
    },
    DeleteImagesRequest => |m| {
        validate::collection_name("collection", m.scope().collection())?;
        validate::image_ids(&m.ids, &Limits::default())?;
        validate::request_id(&m.request_id)
    },
    CreateCollectionRequest => |m| {
        validate::collection_name("name", m.scope().collection())?;
        validate::request_id(&m.request_id)?;
        validate::quantization(m.quantization)?;
        m.vector_space.map_or(Ok(()), |space| validate::vector_space(&space, None))
    },
    ListCollectionsRequest => |m| {
        pages::size(m.page_size)?;
        pages::read_token("ListCollections", &m.page_token).map(drop)
    },
    ListMovesRequest => |m| nodes::page_of(&m).map(drop),
    GetImageRequest => |m| {
        validate::collection_name("collection", m.scope().collection())?;
        validate::image_id("id", &m.id)?;
        validate::freshness(m.consistency, &m.session_tokens).map(drop)
    },
    GetCollectionRequest => |m| validate::collection_name("name", m.scope().collection()),
    DeleteCollectionRequest => |m| validate::collection_name("name", m.scope().collection()),
    BeginBackupRequest => |m| validate::collection_name("collection", m.scope().collection()),
    ReadBackupRequest => |m| backup::checks::read(&m),
    RestoreImagesRequest => |m| backup::checks::restore(&m, collection().dimension()),
    DrainNodeRequest => |m| nodes::check_node(&m.node),
    UndrainNodeRequest => |m| nodes::check_node(&m.node),
    RemoveNodeRequest => |m| nodes::check_node(&m.node),
    SetGroupCountRequest => |m| nodes::check_group_count(m.group_count),
    // Nothing is in them, or nothing yet.
    GetClusterStatusRequest => |_| Ok(()),
    PauseMovesRequest => |_| Ok(()),
    ResumeMovesRequest => |_| Ok(()),
}

/// The first byte says which message the rest is. A refusal is short and names its field; what is taken may be encoded
/// again.
///
/// # Panics
/// If a refusal is not so.
pub fn requests(bytes: &[u8]) {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let (_, check) = KINDS[usize::from(*kind) % KINDS.len()];
    if let Err(error) = check(bytes) {
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
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn every_file_of_the_corpus_is_harmless() {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../integration-tests/fuzz/corpus/requests");
        let files: Vec<_> = std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!files.is_empty());
        files.iter().for_each(|file| requests(&std::fs::read(file).unwrap()));
    }

    /// Messages that calls of the public API begin with.
    fn requested() -> BTreeSet<String> {
        let set = prost_types::FileDescriptorSet::decode(omma_proto::DESCRIPTORS).unwrap();
        let services = set.file.iter().filter(|file| file.package() == "omma.v1").flat_map(|file| &file.service);
        let methods = services.flat_map(|service| &service.method);
        methods.map(|method| method.input_type().trim_start_matches(".omma.v1.").to_owned()).collect()
    }

    #[test]
    fn every_message_of_the_public_api_is_fuzzed() {
        let kinds: BTreeSet<String> = KINDS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(kinds, requested(), "give each message its checks");
        assert_eq!(kinds.len(), KINDS.len(), "a message is there twice");
    }

    /// Writes them below `OMMA_FUZZ_SEEDS`, if that is set.
    #[test]
    fn every_seed_is_harmless() {
        let into = std::env::var_os("OMMA_FUZZ_SEEDS").map(|folder| PathBuf::from(folder).join("requests"));
        let mut seeds = seeds();
        for (kind, (name, check)) in (0u8..).zip(KINDS) {
            let message = seeds.remove(name).unwrap_or_else(|| panic!("{name} has no seed"));
            check(&message).unwrap_or_else(|error| panic!("{name}: {error}"));
            let seed = [vec![kind], message].concat();
            requests(&seed);
            if let Some(into) = &into {
                std::fs::create_dir_all(into).unwrap();
                std::fs::write(into.join(format!("seed-{kind}")), seed).unwrap();
            }
        }
        assert!(seeds.is_empty(), "{seeds:?}");
    }

    /// One good message of each kind.
    fn seeds() -> BTreeMap<&'static str, Vec<u8>> {
        let mut seeds = BTreeMap::new();
        macro_rules! seed {
            ($message:ident { $($fields:tt)* }) => {
                seeds.insert(stringify!($message), pb::$message { $($fields)* }.encode_to_vec());
            };
        }
        let (collection, ids) = ("c".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        let (request_id, name, node) = ("r".to_owned(), collection.clone(), "shard-0:7701".to_owned());
        let (query, image) = (query(), image());
        let attributes = image.attributes.clone();
        let embedding = omma_common::vector::to_bytes(&[0.6, 0.8]).to_vec();
        let stored = pb::BackupImage { id: "a".into(), embedding, attributes, content_digest: vec![7; 32] };
        let vector_space = Some(pb::VectorSpace { id: "s".into(), dimension: 2 });
        seed!(SearchRequest { collection: collection.clone(), query: Some(query.clone()), ..Default::default() });
        seed!(BatchSearchRequest { collection: collection.clone(), queries: vec![query], ..Default::default() });
        seed!(PutImagesRequest {
            collection: collection.clone(),
            images: vec![image.clone()],
            request_id: request_id.clone(),
        });
        seed!(IngestImagesRequest { collection: collection.clone(), image: Some(image), ..Default::default() });
        seed!(BatchGetImagesRequest { collection: collection.clone(), ids: ids.clone(), ..Default::default() });
        seed!(DeleteImagesRequest { collection: collection.clone(), ids, ..Default::default() });
        seed!(CreateCollectionRequest { name: name.clone(), vector_space, ..Default::default() });
        seed!(ListCollectionsRequest { page_size: 5, page_token: pages::write_token("c") });
        seed!(ListMovesRequest { page_size: 5, page_token: pages::write_token("3") });
        seed!(GetImageRequest { collection: collection.clone(), id: "a".into(), ..Default::default() });
        seed!(GetCollectionRequest { name: name.clone() });
        seed!(DeleteCollectionRequest { name });
        seed!(BeginBackupRequest { collection: collection.clone(), group_ids: vec![1, 2] });
        seed!(ReadBackupRequest {
            collection: collection.clone(),
            cut_token: "7-2-1f".into(),
            page_token: "4096".into(),
        });
        seed!(RestoreImagesRequest { collection, images: vec![stored], request_id });
        seed!(DrainNodeRequest { node: node.clone() });
        seed!(UndrainNodeRequest { node: node.clone() });
        seed!(RemoveNodeRequest { node });
        seed!(SetGroupCountRequest { group_count: 6 });
        seed!(GetClusterStatusRequest {});
        seed!(PauseMovesRequest {});
        seed!(ResumeMovesRequest {});
        seeds
    }

    fn number() -> pb::AttributeValue {
        pb::AttributeValue { kind: Some(pb::attribute_value::Kind::IntegerValue(7)) }
    }

    fn query() -> pb::Query {
        use pb::filter::Condition;
        use pb::range_condition::Lower;
        let equals = pb::EqualsCondition { attribute: "size".into(), value: Some(number()) };
        let lower = Some(Lower::AtLeast(number()));
        let range = pb::RangeCondition { attribute: "size".into(), lower, upper: None };
        let of = |condition| pb::Filter { condition: Some(condition) };
        let both = pb::FilterList { filters: vec![of(Condition::Equals(equals)), of(Condition::Range(range))] };
        let filter = Some(of(Condition::Negation(Box::new(of(Condition::AllOf(both))))));
        let target = Some(Target::Embedding(pb::Embedding { values: vec![0.6, 0.8] }));
        pb::Query { target, filter, k: 10, min_score: Some(0.5) }
    }

    fn image() -> pb::NewImage {
        let content = Some(pb::new_image::Content::Picture(vec![0xFF, 0xD8].into()));
        pb::NewImage { id: "a".into(), content, attributes: [("size".to_owned(), number())].into() }
    }
}
