//! Collections.

use omma_common::deadline::Deadline;
use omma_proto::v1::{
    Collection, CreateCollectionRequest, DeleteCollectionRequest, GetCollectionRequest, ListCollectionsRequest,
    Quantization, VectorSpace,
};

use crate::call::{Omma, new_request_id};
use crate::error::ClientError;
use crate::retry::Repeatable;

/// Pages are this long. The server's limit on collections bounds their number.
const PAGE: i32 = 1000;

/// What a new collection is to be like.
#[derive(Debug, Clone, Default)]
pub struct CollectionOptions {
    /// None for that of the cluster's encoder.
    pub vector_space: Option<VectorSpace>,
    /// How its graphs keep the embeddings' numbers; unspecified as the shard nodes are configured.
    pub quantization: Quantization,
}

impl Omma {
    /// Creates a collection. `vector_space`: none for that of the cluster's encoder.
    pub async fn create_collection(
        &self,
        name: &str,
        vector_space: Option<VectorSpace>,
    ) -> Result<Collection, ClientError> {
        self.create_collection_with(name, CollectionOptions { vector_space, ..CollectionOptions::default() }).await
    }

    /// Creates a collection with all that can be chosen.
    pub async fn create_collection_with(
        &self,
        name: &str,
        options: CollectionOptions,
    ) -> Result<Collection, ClientError> {
        let request = CreateCollectionRequest {
            name: name.to_owned(),
            vector_space: options.vector_space,
            request_id: new_request_id(),
            quantization: options.quantization.into(),
        };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.collections(), deadline.request(request.clone()));
            async move { client.create_collection(request).await }
        };
        let response = self.call("CreateCollection", Repeatable::Yes, attempt).await?;
        response.collection.ok_or_else(|| ClientError::malformed("collection"))
    }

    /// One collection, with its number of images.
    pub async fn get_collection(&self, name: &str) -> Result<Collection, ClientError> {
        let request = GetCollectionRequest { name: name.to_owned() };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.collections(), deadline.request(request.clone()));
            async move { client.get_collection(request).await }
        };
        let response = self.call("GetCollection", Repeatable::Yes, attempt).await?;
        response.collection.ok_or_else(|| ClientError::malformed("collection"))
    }

    /// All collections, by name. Their numbers of images are not counted.
    pub async fn list_collections(&self) -> Result<Vec<Collection>, ClientError> {
        let (mut all, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListCollectionsRequest { page_size: PAGE, page_token };
            let attempt = |deadline: Deadline| {
                let (mut client, request) = (self.collections(), deadline.request(request.clone()));
                async move { client.list_collections(request).await }
            };
            let response = self.call("ListCollections", Repeatable::Yes, attempt).await?;
            all.extend(response.collections);
            if response.next_page_token.is_empty() {
                return Ok(all);
            }
            page_token = response.next_page_token;
        }
    }

    /// Deletes a collection and every image in it. Never retried: a second try could meet a collection of the same
    /// name that somebody has made meanwhile.
    pub async fn delete_collection(&self, name: &str) -> Result<(), ClientError> {
        let request = DeleteCollectionRequest { name: name.to_owned() };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.collections(), deadline.request(request.clone()));
            async move { client.delete_collection(request).await }
        };
        self.call("DeleteCollection", Repeatable::No, attempt).await.map(|_| ())
    }
}
