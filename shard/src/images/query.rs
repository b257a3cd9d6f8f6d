//! Reads: nearest images, images by id.

use omma_common::slot::{SlotSet, slot_of};
use omma_common::topk::Ranked;
use omma_proto::v1::{AttributeValue, Embedding, Filter, Image};
use std::collections::BTreeMap;
use std::sync::Arc;

use super::open::Contents;
use super::ranking::{Sought, look};
use super::records::{embedding, key_of, record};
use super::slots::Slots;
use super::state::ImageState;
use crate::group::state_machine::StateError;

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

/// That a group serves the slots of some images.
pub struct Served {
    state: ImageState,
    contents: Arc<Contents>,
    version: u64,
}

impl Served {
    /// Whether it has served them all the time since.
    pub fn still(&self) -> bool {
        self.contents.slots_version.is_still(self.version) && Arc::ptr_eq(&self.contents, &self.state.contents())
    }
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
        self.search_in(uid, query, k, filter, None, attributes)
    }

    /// As [`ImageState::search_where`], of the images in `slots`; all that the group serves if `None`. An error if it
    /// does not serve all of them.
    pub fn search_in(
        &self,
        uid: u64,
        query: &[f32],
        k: usize,
        filter: Option<&Filter>,
        slots: Option<&SlotSet>,
        attributes: bool,
    ) -> Result<Vec<ImageHit>, StateError> {
        let mut looks = 0;
        loop {
            looks += 1;
            let contents = self.settled_contents()?;
            let _no_apply = (looks == LOOKS).then(|| contents.answers.lock());
            let version = contents.slots_version.now();
            let only = limit(&contents.slots(), slots)?;
            let Some(collection) = contents.collections.to_read(uid)? else { return Ok(Vec::new()) };
            let sought = Sought { query, k, filter, only: only.as_ref(), attributes };
            let (hits, raced) = look(&contents, &collection, &sought)?;
            let same_slots = contents.slots_version.is_still(version);
            if (!raced && same_slots) || looks == LOOKS {
                return Ok(hits);
            }
        }
    }

    /// Whether the group serves the slots of all `ids`: to be asked before a read, and [`Served::still`] after it.
    pub fn serves(&self, ids: &[String]) -> Result<Served, StateError> {
        let contents = self.settled_contents()?;
        let (version, slots) = (contents.slots_version.now(), contents.slots());
        match contents.slots_version.is_still(version) && ids.iter().all(|id| slots.reads(slot_of(id))) {
            true => Ok(Served { state: self.clone(), contents, version }),
            false => Err(StateError::SlotsMoved),
        }
    }

    /// Whether images with these `ids` may be written now. Applying a command decides; this spares work for nothing.
    pub fn may_write(&self, ids: &[String]) -> bool {
        let slots = self.contents().slots();
        ids.iter().all(|id| slots.writes(slot_of(id)))
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

/// The slots that a read has to be limited to, if there may be records of others.
fn limit(slots: &Slots, asked: Option<&SlotSet>) -> Result<Option<SlotSet>, StateError> {
    match asked {
        Some(asked) if !slots.reads_all(asked) => Err(StateError::SlotsMoved),
        Some(asked) => Ok(slots.holds_more_than(asked).then(|| asked.clone())),
        None => Ok(Some(slots.readable()).filter(|readable| slots.holds_more_than(readable))),
    }
}
