//! One search over all groups: every group is asked once, with all queries of the batch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::join_all;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::{GroupId, METADATA_GROUP};
use omma_common::session::Session;
use omma_proto::internal::v1 as node;
use omma_proto::v1::{Consistency, Coverage, Filter, Hit};

use super::coverage::{accept, coverage, time_for_groups};
use super::hedge::HedgeDelay;
use super::merge::{Wanted, merge};
use super::patience::Patience;
use super::replica::call_replica;
use crate::access::client_id;
use crate::leader::{Effect, call_leader};
use crate::metrics::PARTIAL;
use crate::node_client::NodeClient;
use crate::routing::{ClusterMap, Collection, Routing};

/// How fresh a read must be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Freshness {
    pub(crate) consistency: Consistency,
    /// At `SESSION`.
    pub(crate) session: Session,
}

impl Freshness {
    /// The applied index that a replica of `group` must have reached.
    pub(crate) fn min_applied_index(&self, group: GroupId) -> u64 {
        match self.consistency {
            Consistency::Session => self.session.required(group),
            _ => 0,
        }
    }

    /// The epoch that the cluster map must have reached: slots that were written may have moved before.
    pub(crate) fn min_epoch(&self) -> u64 {
        self.min_applied_index(METADATA_GROUP)
    }

    /// Whether only the leader can serve it.
    pub(crate) fn needs_leader(&self) -> bool {
        matches!(self.consistency, Consistency::Linearizable | Consistency::Unspecified)
    }
}

/// A query, ready for the groups.
#[derive(Debug, Clone)]
pub(crate) struct ReadyQuery {
    /// Unit-length, packed little-endian f32.
    pub(crate) embedding: Bytes,
    pub(crate) filter: Option<Filter>,
    pub(crate) wanted: Wanted,
}

impl ReadyQuery {
    /// Hits to ask each group for: one more if one is to be dropped.
    fn group_k(&self) -> u32 {
        (self.wanted.k + usize::from(self.wanted.not.is_some())) as u32
    }
}

/// How to search.
#[derive(Debug, Clone, Default)]
pub(crate) struct SearchOptions {
    pub(crate) freshness: Freshness,
    pub(crate) allow_partial: bool,
    pub(crate) include_attributes: bool,
}

/// The answer to a batch of queries.
#[derive(Debug)]
pub(crate) struct Found {
    /// In the order of the queries, with the time its merge took.
    pub(crate) hits: Vec<(Vec<Hit>, Duration)>,
    pub(crate) coverage: Coverage,
    pub(crate) fan_out: Duration,
}

/// Searches all groups.
pub(crate) async fn search(
    routing: &Routing,
    hedge: &HedgeDelay,
    collection: &Collection,
    queries: &[ReadyQuery],
    options: &SearchOptions,
    deadline: Deadline,
) -> Result<Found, ApiError> {
    let deadline = deadline.within(time_for_groups(deadline.left(), options.allow_partial));
    let search = |map: Arc<ClusterMap>| async move {
        search_by(&map, routing, hedge, collection, queries, options, deadline).await
    };
    routing.following_slots(options.freshness.min_epoch(), deadline, search).await
}

/// Asks each group for the slots that `map` gives it, so that every image is looked for once.
async fn search_by(
    map: &ClusterMap,
    routing: &Routing,
    hedge: &HedgeDelay,
    collection: &Collection,
    queries: &[ReadyQuery],
    options: &SearchOptions,
    deadline: Deadline,
) -> Result<Found, ApiError> {
    let begun = Instant::now();
    let asked: Vec<_> = map.groups.iter().filter(|(_, g)| !g.slots.is_empty()).collect();
    let patience = match options.allow_partial {
        true => Patience::together(deadline, asked.len()),
        false => asked.iter().map(|_| Patience::alone(deadline)).collect(),
    };
    let calls = asked.into_iter().zip(patience).map(|((&group, placed), patience)| async move {
        let answer = search_group(routing, hedge, collection, queries, options, (group, &placed.slots), patience);
        let answer = deadline.run("the search of a shard group", answer).await.and_then(|answer| answer);
        (group, answer)
    });
    let answers = join_all(calls).await;
    let fan_out = begun.elapsed();

    let asked = answers.len();
    let (mut failures, mut partials) = (Vec::new(), Vec::new());
    for (group, answer) in answers {
        match answer {
            Ok(hits) => partials.push(hits.into_iter()),
            Err(error) => failures.push((group, error)),
        }
    }
    if let Some((_, moved)) = failures.iter().find(|(_, error)| error.reason == Reason::SlotsMoved) {
        return Err(moved.clone());
    }
    if !failures.is_empty() {
        PARTIAL.inc();
    }
    accept(asked, &failures, options.allow_partial)?;
    let hits = queries.iter().map(|query| {
        let begun = Instant::now();
        let hits = merge(&query.wanted, partials.iter_mut().filter_map(Iterator::next).map(|g| g.hits));
        (hits, begun.elapsed())
    });
    Ok(Found { hits: hits.collect(), coverage: coverage(asked, &failures), fan_out })
}

/// One for each query, unless none has one.
fn filters(queries: &[ReadyQuery]) -> Vec<Filter> {
    match queries.iter().any(|q| q.filter.is_some()) {
        true => queries.iter().map(|q| q.filter.clone().unwrap_or_default()).collect(),
        false => Vec::new(),
    }
}

async fn search_group(
    routing: &Routing,
    hedge: &HedgeDelay,
    collection: &Collection,
    queries: &[ReadyQuery],
    options: &SearchOptions,
    (group, slots): (GroupId, &[node::SlotRange]),
    patience: Patience,
) -> Result<Vec<node::GroupHits>, ApiError> {
    let deadline = patience.deadline();
    let request = |map: &ClusterMap| node::SearchGroupRequest {
        target: Some(collection.target(group, map)),
        queries: queries.iter().map(|q| q.embedding.clone()).collect(),
        k: queries.iter().map(ReadyQuery::group_k).collect(),
        consistency: options.freshness.consistency as i32,
        min_applied_index: options.freshness.min_applied_index(group),
        include_attributes: options.include_attributes,
        filters: filters(queries),
        // Of the map that the whole search goes by, whatever a newer one says.
        slots: slots.to_vec(),
        client: client_id(),
    };
    let call = |node: Arc<NodeClient>, map: &ClusterMap| {
        let request = request(map);
        async move { node.search_group(deadline, request).await }
    };
    let answer = match options.freshness.needs_leader() {
        true => call_leader(routing, group, Effect::Read, deadline, call).await?,
        false => call_replica(routing, group, patience, hedge, call).await?,
    };
    if answer.hits.len() != queries.len() {
        let text = format!("shard group {group} gave {} answers to {} queries", answer.hits.len(), queries.len());
        return Err(ApiError::new(Reason::Internal, text));
    }
    Ok(answer.hits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_session_reads_wait_for_an_index() {
        let mut session = Session::default();
        session.require(2, 40);
        for (consistency, leader, index) in [
            (Consistency::Unspecified, true, 0),
            (Consistency::Linearizable, true, 0),
            (Consistency::Session, false, 40),
            (Consistency::Any, false, 0),
        ] {
            let freshness = Freshness { consistency, session: session.clone() };
            assert_eq!((freshness.needs_leader(), freshness.min_applied_index(2)), (leader, index));
            assert_eq!(freshness.min_applied_index(1), 0);
        }
    }
}
