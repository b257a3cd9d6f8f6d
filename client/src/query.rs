//! Queries: what to look for, and how many. `k` is 1 to 1000; 0 means 10.

use bytes::Bytes;
use omma_proto::v1::{Embedding, Query, query::Target};

/// The images that look most like an encoded picture.
pub fn picture(bytes: impl Into<Bytes>, k: u32) -> Query {
    Query { target: Some(Target::Picture(bytes.into())), k, min_score: None }
}

/// The images nearest to an embedding.
pub fn embedding(values: Vec<f32>, k: u32) -> Query {
    Query { target: Some(Target::Embedding(Embedding { values })), k, min_score: None }
}

/// The neighbours of a stored image, itself left out.
pub fn stored(image_id: impl Into<String>, k: u32) -> Query {
    Query { target: Some(Target::ImageId(image_id.into())), k, min_score: None }
}
