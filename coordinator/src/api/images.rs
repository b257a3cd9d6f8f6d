//! `ImageService`: puts, gets, deletes. The stream is in [`super::ingest`].

use std::sync::Arc;

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_proto::v1 as pb;
use omma_proto::v1::image_service_server::ImageService;
use omma_proto::v1::new_image::Content;
use tonic::{Request, Response, Status, Streaming};

use super::ingest::IngestStream;
use super::{Api, Coordinator, validate};
use crate::{read, write};

#[tonic::async_trait]
impl ImageService for Api {
    type IngestImagesStream = IngestStream;

    async fn put_images(
        &self,
        request: Request<pb::PutImagesRequest>,
    ) -> Result<Response<pb::PutImagesResponse>, Status> {
        self.unary("PutImages", request, put_images).await
    }

    async fn ingest_images(
        &self,
        request: Request<Streaming<pb::IngestImagesRequest>>,
    ) -> Result<Response<IngestStream>, Status> {
        super::ingest::open(Arc::clone(&self.0), request)
    }

    async fn get_image(&self, request: Request<pb::GetImageRequest>) -> Result<Response<pb::GetImageResponse>, Status> {
        self.unary("GetImage", request, get_image).await
    }

    async fn batch_get_images(
        &self,
        request: Request<pb::BatchGetImagesRequest>,
    ) -> Result<Response<pb::BatchGetImagesResponse>, Status> {
        self.unary("BatchGetImages", request, batch_get_images).await
    }

    async fn delete_images(
        &self,
        request: Request<pb::DeleteImagesRequest>,
    ) -> Result<Response<pb::DeleteImagesResponse>, Status> {
        self.unary("DeleteImages", request, delete_images).await
    }
}

async fn put_images(
    coordinator: Arc<Coordinator>,
    request: pb::PutImagesRequest,
    deadline: Deadline,
) -> Result<pb::PutImagesResponse, ApiError> {
    let pb::PutImagesRequest { collection, images, request_id } = request;
    validate::collection_name("collection", &collection)?;
    validate::request_id(&request_id)?;
    validate::image_count(&images, &coordinator.limits)?;
    let request_id = write::request_id_or_new(&request_id);
    let (coordinator, images, request_id) = (&coordinator, &images, &request_id);
    let put = coordinator.with_collection(&collection, deadline, |collection| async move {
        let map = coordinator.routing.map().await?;
        let mut images = images.clone();
        validate::images(&mut images, &collection, &coordinator.limits)?;
        if let Some(i) = images.iter().position(|image| matches!(image.content, Some(Content::Picture(_)))) {
            validate::encodable(&format!("images[{i}].picture"), &collection, map.encoder_space.as_ref())?;
        }
        let path = |place| format!("images[{place}]");
        write::put(&coordinator.routing, &collection, images, path, request_id, deadline).await
    });
    let put = put.await?;
    Ok(pb::PutImagesResponse { results: put.results, session_token: Some(put.session.to_token()) })
}

async fn get_image(
    coordinator: Arc<Coordinator>,
    request: pb::GetImageRequest,
    deadline: Deadline,
) -> Result<pb::GetImageResponse, ApiError> {
    validate::image_id("id", &request.id)?;
    let id = request.id.clone();
    let batch = pb::BatchGetImagesRequest {
        collection: request.collection,
        ids: vec![request.id],
        include_embedding: request.include_embedding,
        consistency: request.consistency,
        session_tokens: request.session_tokens,
    };
    let found = batch_get_images(coordinator, batch, deadline).await?.images.pop();
    match found {
        Some(image) => Ok(pb::GetImageResponse { image: Some(image) }),
        None => Err(ApiError::new(Reason::ImageNotFound, format!("there is no image {id:?}"))),
    }
}

async fn batch_get_images(
    coordinator: Arc<Coordinator>,
    request: pb::BatchGetImagesRequest,
    deadline: Deadline,
) -> Result<pb::BatchGetImagesResponse, ApiError> {
    validate::collection_name("collection", &request.collection)?;
    validate::image_ids(&request.ids, &coordinator.limits)?;
    let freshness = &validate::freshness(request.consistency, &request.session_tokens)?;
    let (coordinator, request) = (&coordinator, &request);
    let get = coordinator.with_collection(&request.collection, deadline, |collection| async move {
        let (routing, hedge) = (&coordinator.routing, &coordinator.hedge);
        read::images(routing, hedge, &collection, &request.ids, request.include_embedding, freshness, deadline).await
    });
    Ok(pb::BatchGetImagesResponse { images: get.await? })
}

async fn delete_images(
    coordinator: Arc<Coordinator>,
    request: pb::DeleteImagesRequest,
    deadline: Deadline,
) -> Result<pb::DeleteImagesResponse, ApiError> {
    let pb::DeleteImagesRequest { collection, mut ids, request_id } = request;
    validate::collection_name("collection", &collection)?;
    validate::image_ids(&ids, &coordinator.limits)?;
    validate::request_id(&request_id)?;
    ids.sort_unstable();
    ids.dedup();
    let request_id = write::request_id_or_new(&request_id);
    let (coordinator, ids, request_id) = (&coordinator, &ids, &request_id);
    let delete = coordinator.with_collection(&collection, deadline, |collection| async move {
        write::delete(&coordinator.routing, &collection, ids, request_id, deadline).await
    });
    let (deleted_count, session) = delete.await?;
    Ok(pb::DeleteImagesResponse { deleted_count, session_token: Some(session.to_token()) })
}
