//! `SearchService`: turns each query into an embedding, then searches all groups once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::vector;
use omma_proto::v1 as pb;
use omma_proto::v1::query::Target;
use omma_proto::v1::search_service_server::SearchService;
use tonic::{Request, Response, Status};

use super::{Api, Coordinator, filter, validate};
use crate::metrics::{ENCODE_SECONDS, FAN_OUT_SECONDS, MERGE_SECONDS};
use crate::read;
use crate::routing::Collection;
use crate::scatter::fan_out::{Found, ReadyQuery, SearchOptions, search};
use crate::scatter::merge::Wanted;

/// Queries of one batch that are encoded or fetched at once.
const PREPARED_AT_ONCE: usize = 16;

#[tonic::async_trait]
impl SearchService for Api {
    async fn search(&self, request: Request<pb::SearchRequest>) -> Result<Response<pb::SearchResponse>, Status> {
        self.unary("Search", request, one).await
    }

    async fn batch_search(
        &self,
        request: Request<pb::BatchSearchRequest>,
    ) -> Result<Response<pb::BatchSearchResponse>, Status> {
        self.unary("BatchSearch", request, batch).await
    }
}

/// A query whose embedding is known, and how long that took.
#[derive(Debug)]
struct Prepared {
    query: ReadyQuery,
    timings: pb::SearchTimings,
}

async fn one(
    coordinator: Arc<Coordinator>,
    request: pb::SearchRequest,
    deadline: Deadline,
) -> Result<pb::SearchResponse, ApiError> {
    let begun = Instant::now();
    validate::collection_name("collection", &request.collection)?;
    let freshness = validate::freshness(request.consistency, &request.session_tokens)?;
    let query = request.query.ok_or_else(|| ApiError::field("query", "must be set"))?;
    let options = SearchOptions {
        freshness,
        allow_partial: request.allow_partial,
        include_attributes: request.include_attributes,
    };
    let (coordinator, query, options) = (&coordinator, &query, &options);
    let found = coordinator.with_collection(&request.collection, deadline, |collection| async move {
        let Prepared { query, timings } =
            prepare(coordinator, &collection, "query", query.clone(), options, deadline).await?;
        let found = search(&coordinator.routing, &coordinator.hedge, &collection, &[query], options, deadline).await?;
        Ok((timings, found))
    });
    let (timings, found) = found.await?;
    let Found { hits, coverage, fan_out } = found;
    let (hits, merge) = hits.into_iter().next().unwrap_or_default();
    FAN_OUT_SECONDS.took(fan_out);
    MERGE_SECONDS.took(merge);
    Ok(response(hits, coverage, timings, fan_out, merge, begun.elapsed()))
}

async fn batch(
    coordinator: Arc<Coordinator>,
    request: pb::BatchSearchRequest,
    deadline: Deadline,
) -> Result<pb::BatchSearchResponse, ApiError> {
    let begun = Instant::now();
    validate::collection_name("collection", &request.collection)?;
    validate::query_count(request.queries.len(), &coordinator.limits)?;
    let freshness = validate::freshness(request.consistency, &request.session_tokens)?;
    let options = SearchOptions {
        freshness,
        allow_partial: request.allow_partial,
        include_attributes: request.include_attributes,
    };
    let (coordinator, queries, options) = (&coordinator, &request.queries, &options);
    let results = coordinator.with_collection(&request.collection, deadline, |collection| async move {
        batch_in(coordinator, &collection, queries, options, deadline, begun).await
    });
    Ok(pb::BatchSearchResponse { results: results.await? })
}

/// Prepares each query by itself, searches with those that are ready.
async fn batch_in(
    coordinator: &Coordinator,
    collection: &Collection,
    queries: &[pb::Query],
    options: &SearchOptions,
    deadline: Deadline,
    begun: Instant,
) -> Result<Vec<pb::BatchSearchResult>, ApiError> {
    let jobs: Vec<_> = queries
        .iter()
        .enumerate()
        .map(|(i, query)| async move {
            prepare(coordinator, collection, &format!("queries[{i}]"), query.clone(), options, deadline).await
        })
        .collect();
    let prepared: Vec<_> = futures::stream::iter(jobs).buffered(PREPARED_AT_ONCE).collect().await;
    if let Some(error) = prepared.iter().filter_map(|p| p.as_ref().err()).find(|e| is_gone(e)) {
        return Err(error.clone());
    }
    let ready: Vec<_> = prepared.iter().filter_map(|p| p.as_ref().ok()).map(|p| p.query.clone()).collect();
    let found = match ready.is_empty() {
        true => Found { hits: Vec::new(), coverage: pb::Coverage::default(), fan_out: Duration::ZERO },
        false => search(&coordinator.routing, &coordinator.hedge, collection, &ready, options, deadline).await?,
    };
    let mut hits = found.hits.into_iter();
    let results = prepared.into_iter().map(|prepared| match prepared {
        Err(error) => pb::BatchSearchResult { response: None, error: Some(error.to_rpc_status()) },
        Ok(Prepared { timings, .. }) => {
            let (hits, merge) = hits.next().unwrap_or_default();
            let response = response(hits, found.coverage.clone(), timings, found.fan_out, merge, begun.elapsed());
            pb::BatchSearchResult { response: Some(response), error: None }
        }
    });
    Ok(results.collect())
}

fn is_gone(error: &ApiError) -> bool {
    error.reason == Reason::CollectionNotFound
}

/// Checks a query and finds its embedding. `path` is its field in the request.
async fn prepare(
    coordinator: &Coordinator,
    collection: &Collection,
    path: &str,
    query: pb::Query,
    options: &SearchOptions,
    deadline: Deadline,
) -> Result<Prepared, ApiError> {
    let k = validate::k(&format!("{path}.k"), query.k, &coordinator.limits)?;
    query.filter.as_ref().map_or(Ok(()), |wanted| filter::check(&format!("{path}.filter"), wanted))?;
    let mut wanted =
        Wanted { k, min_score: validate::min_score(&format!("{path}.min_score"), query.min_score)?, not: None };
    let mut timings = pb::SearchTimings { encode: proto(Duration::ZERO), ..Default::default() };
    let embedding = match query.target {
        None => return Err(ApiError::field(path, "has neither a picture nor an embedding nor an image_id")),
        Some(Target::Embedding(mut e)) => {
            validate::embedding(&format!("{path}.embedding"), &mut e.values, collection)?;
            vector::to_bytes(&e.values)
        }
        Some(Target::Picture(picture)) => {
            let field = format!("{path}.picture");
            validate::picture(&field, &picture, &coordinator.limits)?;
            let map = coordinator.routing.map().await?;
            validate::encodable(&field, collection, map.encoder_space.as_ref())?;
            let begun = Instant::now();
            let encoded = read::encode(&coordinator.routing, collection, picture, deadline).await;
            let encoded = encoded.map_err(|error| under(path, error))?;
            let took = begun.elapsed();
            ENCODE_SECONDS.took(took);
            timings.encode = proto(took);
            timings.decode = proto(Duration::from_micros(encoded.decode_micros));
            timings.encode_queue = proto(Duration::from_micros(encoded.queue_micros));
            timings.inference = proto(Duration::from_micros(encoded.inference_micros));
            encoded.embedding
        }
        Some(Target::ImageId(id)) => {
            validate::image_id(&format!("{path}.image_id"), &id)?;
            let values = stored_embedding(coordinator, collection, &id, options, deadline).await?;
            wanted.not = Some(id);
            vector::to_bytes(&values)
        }
    };
    Ok(Prepared { query: ReadyQuery { embedding, filter: query.filter, wanted }, timings })
}

/// A node's error, with the field it names as the client knows it.
fn under(path: &str, mut error: ApiError) -> ApiError {
    for (field, _) in &mut error.fields {
        *field = format!("{path}.{field}");
    }
    error
}

/// The embedding of a stored image, as it was stored.
async fn stored_embedding(
    coordinator: &Coordinator,
    collection: &Collection,
    id: &str,
    options: &SearchOptions,
    deadline: Deadline,
) -> Result<Vec<f32>, ApiError> {
    let ids = [id.to_owned()];
    let (routing, hedge) = (&coordinator.routing, &coordinator.hedge);
    let found = read::images(routing, hedge, collection, &ids, true, &options.freshness, deadline).await?;
    let image = found.into_iter().next();
    let image = image.ok_or_else(|| ApiError::new(Reason::ImageNotFound, format!("there is no image {id:?}")))?;
    let embedding = image.embedding.map(|e| e.values).unwrap_or_default();
    if embedding.len() != collection.dimension() {
        let text = format!("the shard group of image {id:?} answered without its embedding");
        return Err(ApiError::new(Reason::Internal, text));
    }
    Ok(embedding)
}

fn proto(duration: Duration) -> Option<prost_types::Duration> {
    prost_types::Duration::try_from(duration).ok()
}

fn response(
    hits: Vec<pb::Hit>,
    coverage: pb::Coverage,
    timings: pb::SearchTimings,
    fan_out: Duration,
    merge: Duration,
    total: Duration,
) -> pb::SearchResponse {
    let timings = pb::SearchTimings { total: proto(total), fan_out: proto(fan_out), merge: proto(merge), ..timings };
    pb::SearchResponse { hits, coverage: Some(coverage), timings: Some(timings) }
}

#[cfg(test)]
mod tests {
    use omma_common::tls::Dialer;

    use super::*;
    use crate::access::Access;
    use crate::node_client::Nodes;
    use crate::routing::Routing;

    /// Futures that hold others by value grow with each level, several times over, and are copied when they are begun.
    #[tokio::test]
    async fn a_search_takes_little_memory_while_it_waits() {
        let routing = Routing::new(vec![], Nodes::new(1, Dialer::default(), None));
        let access = Access::new(&Default::default()).unwrap();
        let (_trigger, shutdown) = omma_common::shutdown::channel();
        let api = Api(Arc::new(Coordinator::new(routing, Default::default(), access, shutdown)));
        let search = api.unary("Search", Request::new(pb::SearchRequest::default()), one);
        assert!(size_of_val(&search) < 4 << 10, "{} bytes", size_of_val(&search));
    }
}
