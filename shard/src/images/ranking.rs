//! One look for the nearest images: candidates of the index, ranked by their exact embeddings.
//!
//! Embeddings come from [`super::recent`], which may still have those of records that are gone. That is no matter as long
//! as nothing is removed: what the index gives then lives. A look during which something was removed asks the store
//! whether its hits are there.

use std::collections::BTreeMap;
use std::sync::Arc;

use omma_common::slot::{SlotSet, slot_of};
use omma_common::topk::{Ranked, TopK};
use omma_proto::internal::v1::StoredRecord;
use omma_proto::v1::Filter;

use super::collection::Collection;
use super::keys::{self, RecordKey};
use super::open::Contents;
use super::query::ImageHit;
use super::recent::Readable;
use super::records::record;
use crate::attributes::matches;
use crate::group::state_machine::StateError;
use crate::index::{Among, dot};

/// What a look is for.
pub(super) struct Sought<'a> {
    pub(super) query: &'a [f32],
    pub(super) k: usize,
    pub(super) filter: Option<&'a Filter>,
    /// Where there are images of other slots as well.
    pub(super) only: Option<&'a SlotSet>,
    pub(super) attributes: bool,
}

/// One look; and whether a record went away meanwhile, so that its successor may be missing. Images of other slots lie
/// among the others at random: more candidates are asked for until enough are of the right ones, or there are no more.
pub(super) fn look(
    contents: &Contents,
    collection: &Collection,
    sought: &Sought,
) -> Result<(Vec<ImageHit>, bool), StateError> {
    let mut candidates = sought.k;
    loop {
        let removals = contents.removals.now();
        let ranking = rank(contents, collection, sought, candidates)?;
        if ranking.others == 0 || ranking.best.len() >= sought.k || ranking.found < candidates {
            return hits(contents, collection, sought, ranking, removals);
        }
        candidates = candidates.saturating_mul(2).max(16);
    }
}

/// A candidate with its exact score.
struct Ranking {
    best: Vec<Scored>,
    raced: bool,
    /// Candidates that the index gave, …
    found: usize,
    /// … and those of slots that are not sought.
    others: usize,
}

struct Scored {
    key: RecordKey,
    score: f32,
    read: Arc<Readable>,
}

impl Ranked for Scored {
    type Id = str;
    fn score(&self) -> f32 {
        self.score
    }
    fn id(&self) -> &str {
        &self.read.id
    }
}

/// Two sums of the same products differ by no more.
const OF_ADDING: f32 = 1e-5;

/// Candidates from the index, ranked by their stored embeddings.
fn rank(
    contents: &Contents,
    collection: &Collection,
    sought: &Sought,
    candidates: usize,
) -> Result<Ranking, StateError> {
    let (mut raced, mut found, mut others) = (false, 0, 0);
    let mut top = TopK::new(sought.k);
    let selection = sought.filter.map(|filter| collection.attributes.read().select(filter));
    let among = selection.as_ref().map(|selection| selection as &dyn Among);
    let mut believed = true;
    for candidate in collection.index.search_among(sought.query, candidates, among)? {
        found += 1;
        // Only what can be among the best is worth reading; equals of the worst of them can, by their ids.
        if believed && top.floor().is_some_and(|worst| candidate.score + candidate.error < worst) {
            continue;
        }
        let key = candidate.key;
        let Some(read) = contents.reads.get(collection.uid, key)? else {
            raced |= is_gone(contents, key);
            continue;
        };
        if sought.only.is_some_and(|only| !only.contains(slot_of(&read.id))) {
            others += 1;
            continue;
        }
        let score = dot(sought.query, &read.embedding);
        // The errors of numbers in eight bits have no bound. Those of such a query or collection are all large.
        believed &= (score - candidate.score).abs() <= candidate.error + OF_ADDING;
        top.push(Scored { key, score, read });
    }
    raced |= selection.is_some_and(|selection| collection.attributes.read().has_lost_of(&selection));
    Ok(Ranking { best: top.into_sorted(), raced, found, others })
}

/// What is not in the store is not applied yet, as if it were not there; otherwise it was replaced or deleted just now.
fn is_gone(contents: &Contents, key: RecordKey) -> bool {
    keys::index_of(key) <= contents.applied()
}

/// The hits of a ranking that began at version `removals`.
fn hits(
    contents: &Contents,
    collection: &Collection,
    sought: &Sought,
    ranking: Ranking,
    removals: u64,
) -> Result<(Vec<ImageHit>, bool), StateError> {
    let Ranking { best, mut raced, .. } = ranking;
    let mut hits = Vec::with_capacity(best.len());
    let unharmed = contents.removals.is_still(removals);
    let by_id = unharmed && sought.filter.is_none() && !sought.attributes;
    for Scored { key, score, read } in best {
        let mut attributes = BTreeMap::new();
        if !by_id {
            let Some(stored) = record(&contents.table, collection.uid, key)? else {
                raced |= is_gone(contents, key);
                continue;
            };
            if !is_sought(sought, &stored) {
                tracing::error!(collection_uid = collection.uid, key, "the attribute index is wrong");
                continue;
            }
            if sought.attributes {
                attributes = stored.attributes;
            }
        }
        hits.push(ImageHit { id: read.id.clone(), score, attributes });
    }
    Ok((hits, raced))
}

fn is_sought(sought: &Sought, stored: &StoredRecord) -> bool {
    sought.filter.is_none_or(|filter| matches(filter, &stored.attributes))
}
