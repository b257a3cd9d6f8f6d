//! One image of a stream: its write, and what its client is told of it.

use std::sync::Arc;

use omma_common::deadline::Deadline;
use omma_common::error::ApiError;
use omma_proto::v1 as pb;
use omma_proto::v1::new_image::Content;

use super::super::{Coordinator, validate};
use super::Turn;
use crate::write;

/// Whether an answer says that the collection does not exist (any more).
pub(super) fn gone(answer: &pb::IngestImagesResponse, collection: &str) -> Option<ApiError> {
    let error = answer.result.as_ref()?.error.as_ref()?;
    (error.code == tonic::Code::NotFound as i32).then(|| crate::routing::cache::unknown_collection(collection))
}

/// Writes an image, after the one of its id that came before it.
pub(super) async fn answer_one(
    coordinator: Arc<Coordinator>,
    collection: Arc<str>,
    message: pb::IngestImagesRequest,
    deadline: Deadline,
    before: Option<Turn>,
) -> pb::IngestImagesResponse {
    let id = message.image.as_ref().map(|i| i.id.clone()).unwrap_or_default();
    let sequence = message.sequence;
    let put = async {
        if let Some(before) = before {
            // It ends by being dropped, hence with an error.
            let _ = before.await;
        }
        put_one(&coordinator, &collection, message, deadline).await
    };
    let put = deadline.run("the write of an image", put).await;
    answered(sequence, id, put.and_then(|put| put))
}

/// What the client is told.
pub(super) fn answered(sequence: u64, id: String, put: Result<write::Put, ApiError>) -> pb::IngestImagesResponse {
    let failed = |error: &ApiError| pb::PutResult { error: Some(error.to_rpc_status()), ..Default::default() };
    let (result, session_token) = match put {
        Ok(mut put) => (put.results.pop().unwrap_or_default(), Some(put.session.to_token())),
        Err(error) => (failed(&error), None),
    };
    pb::IngestImagesResponse { sequence, result: Some(pb::PutResult { id, ..result }), session_token }
}

async fn put_one(
    coordinator: &Coordinator,
    collection: &str,
    message: pb::IngestImagesRequest,
    deadline: Deadline,
) -> Result<write::Put, ApiError> {
    validate::request_id(&message.request_id)?;
    let image = message.image.ok_or_else(|| ApiError::field("image", "must be set"))?;
    let request_id = write::request_id_or_new(&message.request_id);
    let (image, request_id) = (&image, &request_id);
    let put = coordinator.with_collection(collection, deadline, |collection| async move {
        let mut image = image.clone();
        validate::image("image", &mut image, &collection, &coordinator.limits)?;
        if matches!(image.content, Some(Content::Picture(_))) {
            let map = coordinator.routing.map().await?;
            validate::encodable("image.picture", &collection, map.encoder_space.as_ref())?;
        }
        write::put(&coordinator.routing, &collection, vec![image], |_| "image".to_owned(), request_id, deadline).await
    });
    put.await
}

#[cfg(test)]
mod tests {
    use omma_common::error::Reason;

    use super::*;

    #[test]
    fn failures_become_the_images_own() {
        let answer = answered(7, "a".into(), Err(ApiError::field("image.id", "is odd")));
        let result = answer.result.as_ref().unwrap();
        assert_eq!((answer.sequence, result.id.as_str()), (7, "a"));
        assert_eq!(result.error.as_ref().unwrap().code, tonic::Code::InvalidArgument as i32);
        assert!(gone(&answer, "c").is_none());
        let answer = answered(7, "a".into(), Err(crate::routing::cache::unknown_collection("c")));
        assert_eq!(gone(&answer, "c").unwrap().reason, Reason::CollectionNotFound);
    }
}
