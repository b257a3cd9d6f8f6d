//! From images as they are sent to records as they are replicated: the leader does this, once.

use futures::future::join_all;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::vector::{normalise, to_bytes};
use omma_proto::internal::v1::{PutRecord, Target};
use omma_proto::v1::NewImage;
use omma_proto::v1::new_image::Content;
use tonic::Code;

use super::errors;
use crate::encoder::Line;
use crate::images::ImageState;
use crate::node::{Node, blocking};

/// A record, or why there is none. In the order of the request.
pub(super) type Prepared = Result<PutRecord, ApiError>;

/// Embeds what is not embedded yet. An error is for the request as a whole, and a retry may help; what is wrong with a
/// single image for good is that image's error.
pub(super) async fn prepare(
    node: &Node,
    state: &ImageState,
    target: &Target,
    images: Vec<NewImage>,
    line: Line,
    deadline: Deadline,
) -> Result<Vec<Prepared>, ApiError> {
    let prepared = join_all(images.into_iter().map(|image| record(node, state, target, image, line, deadline))).await;
    let passing = |p: &Prepared| p.as_ref().err().is_some_and(|e| is_passing(e.reason));
    match prepared.iter().find(|p| passing(p)) {
        Some(Err(error)) => Err(error.clone()),
        _ => Ok(prepared),
    }
}

/// Whether the same image may fare better at another time.
fn is_passing(reason: Reason) -> bool {
    !matches!(reason.code(), Code::InvalidArgument | Code::FailedPrecondition)
}

async fn record(
    node: &Node,
    state: &ImageState,
    target: &Target,
    image: NewImage,
    line: Line,
    deadline: Deadline,
) -> Result<PutRecord, ApiError> {
    let NewImage { id, content, attributes } = image;
    let (embedding, content_digest) = match content {
        Some(Content::Embedding(embedding)) => {
            let mut values = embedding.values;
            normalise(&mut values, target.dimension as usize)
                .map_err(|e| ApiError::bad_field(Reason::InvalidEmbedding, "embedding", e))?;
            (values, Vec::new())
        }
        Some(Content::Picture(picture)) => embed(node, state, target, &id, picture, line, deadline).await?,
        None => return Err(errors::missing("content")),
    };
    Ok(PutRecord { id, embedding: to_bytes(&embedding), attributes, content_digest: content_digest.into() })
}

/// The embedding and content digest of a picture. One that is stored already is not encoded again.
async fn embed(
    node: &Node,
    state: &ImageState,
    target: &Target,
    id: &str,
    picture: bytes::Bytes,
    line: Line,
    deadline: Deadline,
) -> Result<(Vec<f32>, Vec<u8>), ApiError> {
    check_space(node, &target.vector_space_id)?;
    let lookup = {
        let (state, id, uid, picture) = (state.clone(), id.to_owned(), target.collection_uid, picture.clone());
        move || (blake3::hash(&picture).as_bytes().to_vec(), state.stored(uid, &id))
    };
    let (digest, stored) = blocking(lookup).await;
    match stored.map_err(|e| errors::state(&e))? {
        Some(stored) if stored.content_digest == digest => Ok((stored.embedding, digest)),
        _ => Ok((node.encoder.encode(picture, line, deadline).await?.embedding, digest)),
    }
}

/// Refuses pictures for a collection whose embeddings this node's encoder does not make.
pub(super) fn check_space(node: &Node, wanted: &str) -> Result<(), ApiError> {
    let own = &node.encoder.info().space_id;
    if wanted == own {
        return Ok(());
    }
    let message = format!(
        "the collection is in vector space {wanted:?} and this cluster's encoder is {own:?}: \
         send embeddings, or use a collection that was created without a vector space of its own"
    );
    Err(ApiError::new(Reason::VectorSpaceMismatch, message))
}
