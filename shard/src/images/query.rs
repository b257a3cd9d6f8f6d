//! Reads: nearest images, images by id.

use omma_common::topk::{Ranked, TopK};
use omma_proto::v1::{AttributeValue, Embedding, Filter, Image};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::collection::Collection;
use super::keys;
use super::open::Contents;
use super::records::{embedding, key_of, record};
use super::state::ImageState;
use crate::attributes::matches;
use crate::group::state_machine::StateError;
use crate::index::{Among, dot};

/// A neighbour.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageHit {
    /// The image's id.
    pub id: String,
    /// Cosine similarity, from the f32 embedding: the same on every replica.
    pub score: f32,
    /// Empty unless asked for.
    pub attributes: BTreeMap<String, AttributeValue>,
}

impl Ranked for ImageHit {
    type Id = str;
    fn score(&self) -> f32 {
        self.score
    }
    fn id(&self) -> &str {
        &self.id
    }
}

/// What is stored of a picture, to spare encoding it again.
#[derive(Debug, Clone)]
pub struct Stored {
    /// BLAKE3-256 of its bytes.
    pub content_digest: Vec<u8>,
    /// Unit length.
    pub embedding: Vec<f32>,
}

/// How often a read looks again when records change under it. The last look keeps changes out.
const LOOKS: usize = 4;

impl ImageState {
    /// The `k` images of collection `uid` nearest to a unit-length `query`; none if nothing was ever put there.
    pub fn search(&self, uid: u64, query: &[f32], k: usize, attributes: bool) -> Result<Vec<ImageHit>, StateError> {
        self.search_where(uid, query, k, None, attributes)
    }

    /// As [`ImageState::search`], of the images that satisfy `filter`.
    pub fn search_where(
        &self,
        uid: u64,
        query: &[f32],
        k: usize,
        filter: Option<&Filter>,
        attributes: bool,
    ) -> Result<Vec<ImageHit>, StateError> {
        let mut looks = 0;
        loop {
            looks += 1;
            let contents = self.settled_contents()?;
            let Some(collection) = contents.collections.to_read(uid)? else { return Ok(Vec::new()) };
            let _no_apply = (looks == LOOKS).then(|| contents.answers.lock());
            let (hits, raced) = look(&contents, &collection, query, k, filter, attributes)?;
            if !raced || looks == LOOKS {
                return Ok(hits);
            }
        }
    }

    /// Until a snapshot's state is exact, it may hold what was deleted, and its indexes are empty.
    fn settled_contents(&self) -> Result<Arc<Contents>, StateError> {
        let contents = self.contents();
        if contents.is_settled() { Ok(contents) } else { Err(StateError::Settling) }
    }

    /// The image of this id; `None` if there is none.
    pub fn get(&self, uid: u64, id: &str, with_embedding: bool) -> Result<Option<Image>, StateError> {
        for look in 1..=LOOKS {
            let contents = self.settled_contents()?;
            if contents.collections.to_read(uid)?.is_none() {
                return Ok(None);
            }
            let _no_apply = (look == LOOKS).then(|| contents.answers.lock());
            let Some(key) = key_of(&contents.table, uid, id)? else { return Ok(None) };
            let stored = record(&contents.table, uid, key)?;
            let values = if with_embedding { embedding(&contents.table, uid, key)? } else { Some(Vec::new()) };
            // Both are there, or the image was replaced between two reads.
            if let (Some(stored), Some(values)) = (stored, values) {
                return Ok(Some(Image {
                    id: stored.id,
                    attributes: stored.attributes,
                    content_digest: stored.content_digest.to_vec(),
                    embedding: with_embedding.then_some(Embedding { values }),
                }));
            }
        }
        Err(StateError::Damaged { what: format!("record of image {id:?}"), reason: "its id names nothing".to_owned() })
    }

    /// What is stored of a picture; `None` if there is no such image, or it was put as an embedding.
    pub fn stored(&self, uid: u64, id: &str) -> Result<Option<Stored>, StateError> {
        let found = self.get(uid, id, true)?.filter(|i| !i.content_digest.is_empty());
        Ok(found.and_then(|i| Some(Stored { content_digest: i.content_digest, embedding: i.embedding?.values })))
    }
}

/// One look: candidates from the index, ranked by their stored embeddings. True if a record went away meanwhile, so
/// that its successor may be missing.
fn look(
    contents: &Contents,
    collection: &Collection,
    query: &[f32],
    k: usize,
    filter: Option<&Filter>,
    with_attributes: bool,
) -> Result<(Vec<ImageHit>, bool), StateError> {
    let mut raced = false;
    let mut top = TopK::new(k);
    let selection = filter.map(|filter| collection.attributes.read().select(filter));
    let among = selection.as_ref().map(|selection| selection as &dyn Among);
    // Not applied yet: as if it were not there. Otherwise it was replaced or deleted just now.
    let gone = |key| keys::index_of(key) <= contents.applied();
    let mut scored = Vec::new();
    for candidate in collection.index.search_among(query, k, among)? {
        match embedding(&contents.table, collection.uid, candidate.key)? {
            Some(values) => scored.push((dot(query, &values), candidate.key)),
            None => raced |= gone(candidate.key),
        }
    }
    scored.sort_unstable_by(|(a, _), (b, _)| b.total_cmp(a));
    for (score, key) in scored {
        // Only what can be among the best is worth reading; equals of the worst of them can, by their ids.
        if top.floor().is_some_and(|worst| score < worst) {
            break;
        }
        match record(&contents.table, collection.uid, key)? {
            Some(stored) if filter.is_some_and(|filter| !matches(filter, &stored.attributes)) => {
                tracing::error!(collection_uid = collection.uid, key, "the attribute index is wrong");
            }
            Some(stored) => {
                let attributes = if with_attributes { stored.attributes } else { BTreeMap::new() };
                top.push(ImageHit { id: stored.id, score, attributes });
            }
            None => raced |= gone(key),
        }
    }
    raced |= selection.is_some_and(|selection| collection.attributes.read().has_lost_of(&selection));
    Ok((top.into_sorted(), raced))
}
