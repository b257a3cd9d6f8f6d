//! Searches.

use omma_common::deadline::Deadline;
use omma_proto::v1::{BatchSearchRequest, Consistency, Query, SearchRequest, SearchResponse};

use crate::call::Omma;
use crate::error::ClientError;
use crate::retry::Repeatable;

/// How a search is answered. The default: linearizable, from all shard groups, without attributes.
#[derive(Debug, Clone, Copy, Default)]
pub struct SearchOptions {
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// Accept an answer that some shard groups are missing from; its coverage says which.
    pub allow_partial: bool,
    /// Return each hit's attributes.
    pub include_attributes: bool,
}

impl Omma {
    /// Answers one query: hits, best first, with coverage and timings.
    pub async fn search(
        &self,
        collection: &str,
        query: Query,
        options: &SearchOptions,
    ) -> Result<SearchResponse, ClientError> {
        let request = SearchRequest {
            collection: collection.to_owned(),
            query: Some(query),
            consistency: options.consistency.into(),
            session_tokens: self.session_tokens(),
            allow_partial: options.allow_partial,
            include_attributes: options.include_attributes,
        };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.searches(), deadline.request(request.clone()));
            async move { client.search(request).await }
        };
        self.call("Search", Repeatable::Yes, attempt).await
    }

    /// Answers up to 64 queries, in their order; each has its own outcome.
    pub async fn batch_search(
        &self,
        collection: &str,
        queries: Vec<Query>,
        options: &SearchOptions,
    ) -> Result<Vec<Result<SearchResponse, ClientError>>, ClientError> {
        let asked = queries.len();
        let request = BatchSearchRequest {
            collection: collection.to_owned(),
            queries,
            consistency: options.consistency.into(),
            session_tokens: self.session_tokens(),
            allow_partial: options.allow_partial,
            include_attributes: options.include_attributes,
        };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.searches(), deadline.request(request.clone()));
            async move { client.batch_search(request).await }
        };
        let response = self.call("BatchSearch", Repeatable::Yes, attempt).await?;
        if response.results.len() != asked {
            return Err(ClientError::malformed("result for each query"));
        }
        Ok(response
            .results
            .into_iter()
            .map(|result| match ClientError::from_rpc(result.error.as_ref()) {
                Some(error) => Err(error),
                None => result.response.ok_or_else(|| ClientError::malformed("response to a query")),
            })
            .collect())
    }
}
