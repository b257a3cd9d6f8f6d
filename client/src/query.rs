//! Queries: what to look for, and how many. `k` is 1 to 1000; 0 means 10.

use bytes::Bytes;
use omma_proto::v1::{Embedding, Filter, Query, query::Target};

fn of(target: Target, k: u32) -> Query {
    Query { target: Some(target), k, ..Query::default() }
}

/// The images that look most like an encoded picture.
pub fn picture(bytes: impl Into<Bytes>, k: u32) -> Query {
    of(Target::Picture(bytes.into()), k)
}

/// The images nearest to an embedding.
pub fn embedding(values: Vec<f32>, k: u32) -> Query {
    of(Target::Embedding(Embedding { values }), k)
}

/// The neighbours of a stored image, itself left out.
pub fn stored(image_id: impl Into<String>, k: u32) -> Query {
    of(Target::ImageId(image_id.into()), k)
}

/// The query, of the images alone that satisfy the filter.
pub fn filtered(query: Query, filter: Filter) -> Query {
    Query { filter: Some(filter), ..query }
}
