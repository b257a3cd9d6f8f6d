//! Single images and small batches.

use bytes::Bytes;
use omma_common::deadline::Deadline;
use omma_proto::v1::{
    BatchGetImagesRequest, Consistency, DeleteImagesRequest, Embedding, GetImageRequest, Image, NewImage, PutEffect,
    PutImagesRequest, PutResult, new_image::Content,
};

use crate::call::{Omma, new_request_id};
use crate::error::ClientError;
use crate::retry::Repeatable;

/// An image to be put, from an encoded picture.
pub fn image_from_picture(id: impl Into<String>, picture: impl Into<Bytes>) -> NewImage {
    NewImage { id: id.into(), content: Some(Content::Picture(picture.into())), attributes: Default::default() }
}

/// An image to be put, from an embedding that was computed elsewhere.
pub fn image_from_embedding(id: impl Into<String>, values: Vec<f32>) -> NewImage {
    let content = Some(Content::Embedding(Embedding { values }));
    NewImage { id: id.into(), content, attributes: Default::default() }
}

/// How images are read. The default: linearizable, without embeddings.
#[derive(Debug, Clone, Copy, Default)]
pub struct ReadOptions {
    /// How fresh the answer must be.
    pub consistency: Consistency,
    /// Return each image's embedding.
    pub include_embedding: bool,
}

/// What became of one image of a put.
#[derive(Debug, Clone)]
pub struct PutOutcome {
    /// The image's id.
    pub id: String,
    /// What the put did, or why it did nothing.
    pub result: Result<PutEffect, ClientError>,
}

impl PutOutcome {
    pub(crate) fn from_result(result: PutResult) -> Self {
        let outcome = match ClientError::from_rpc(result.error.as_ref()) {
            Some(error) => Err(error),
            None => Ok(result.effect()),
        };
        Self { id: result.id, result: outcome }
    }
}

impl Omma {
    /// Puts 1 to 256 images; the outcomes are in their order.
    pub async fn put_images(&self, collection: &str, images: Vec<NewImage>) -> Result<Vec<PutOutcome>, ClientError> {
        let request = PutImagesRequest { collection: collection.to_owned(), images, request_id: new_request_id() };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.images(), deadline.request(request.clone()));
            async move { client.put_images(request).await }
        };
        let response = self.call("PutImages", Repeatable::Yes, attempt).await?;
        self.remember(response.session_token.as_ref());
        Ok(response.results.into_iter().map(PutOutcome::from_result).collect())
    }

    /// One image; an error with reason `ImageNotFound` if there is none.
    pub async fn get_image(&self, collection: &str, id: &str, options: &ReadOptions) -> Result<Image, ClientError> {
        let request = GetImageRequest {
            collection: collection.to_owned(),
            id: id.to_owned(),
            include_embedding: options.include_embedding,
            consistency: options.consistency.into(),
            session_tokens: self.session_tokens(),
        };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.images(), deadline.request(request.clone()));
            async move { client.get_image(request).await }
        };
        let response = self.call("GetImage", Repeatable::Yes, attempt).await?;
        response.image.ok_or_else(|| ClientError::malformed("image"))
    }

    /// Those of up to 1000 images that exist, in the order of `ids`.
    pub async fn batch_get_images(
        &self,
        collection: &str,
        ids: Vec<String>,
        options: &ReadOptions,
    ) -> Result<Vec<Image>, ClientError> {
        let request = BatchGetImagesRequest {
            collection: collection.to_owned(),
            ids,
            include_embedding: options.include_embedding,
            consistency: options.consistency.into(),
            session_tokens: self.session_tokens(),
        };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.images(), deadline.request(request.clone()));
            async move { client.batch_get_images(request).await }
        };
        self.call("BatchGetImages", Repeatable::Yes, attempt).await.map(|response| response.images)
    }

    /// Deletes up to 1000 images; returns how many existed.
    pub async fn delete_images(&self, collection: &str, ids: Vec<String>) -> Result<u32, ClientError> {
        let request = DeleteImagesRequest { collection: collection.to_owned(), ids, request_id: new_request_id() };
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.images(), deadline.request(request.clone()));
            async move { client.delete_images(request).await }
        };
        let response = self.call("DeleteImages", Repeatable::Yes, attempt).await?;
        self.remember(response.session_token.as_ref());
        Ok(response.deleted_count)
    }
}
