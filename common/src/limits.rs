//! The bounds that every process agrees on. What a deployment may tune is a flag of the process that enforces it.

/// Longest image id, in bytes.
pub const MAX_ID_BYTES: usize = 256;
/// Longest collection name, in bytes.
pub const MAX_COLLECTION_NAME_BYTES: usize = 64;
/// Longest request id, in bytes. A UUID has 36.
pub const MAX_REQUEST_ID_BYTES: usize = 64;
/// Largest dimension of a vector space.
pub const MAX_DIMENSION: u32 = 8192;
/// Most attributes of one image.
pub const MAX_ATTRIBUTES: usize = 64;
/// Most bytes of one image's attributes, encoded.
pub const MAX_ATTRIBUTE_BYTES: usize = 64 << 10;
/// Most hits of one query.
pub const MAX_K: u32 = 1000;
/// Hits of a query that does not say how many.
pub const DEFAULT_K: u32 = 10;
/// Most images of one unary put.
pub const MAX_PUT_IMAGES: usize = 256;
/// Most ids of one unary get or delete.
pub const MAX_IDS: usize = 1000;
/// Most queries of one batch.
pub const MAX_QUERIES: usize = 64;
/// Deepest nesting of a filter.
pub const MAX_FILTER_DEPTH: usize = 8;
/// Most conditions of a filter, those that only join others among them.
pub const MAX_FILTER_CONDITIONS: usize = 64;
/// Most values that one condition of a filter lists.
pub const MAX_FILTER_VALUES: usize = 256;
/// Most bytes of a filter, encoded.
pub const MAX_FILTER_BYTES: usize = 64 << 10;
/// Most collections of a cluster.
pub const MAX_COLLECTIONS: usize = 1000;
/// Largest encoded picture that is accepted unless a flag says otherwise: 16 MiB.
pub const DEFAULT_MAX_PICTURE_BYTES: usize = 16 << 20;
/// Most pixels of a picture that is accepted unless a flag says otherwise.
pub const DEFAULT_MAX_PICTURE_PIXELS: u64 = 64_000_000;
/// Largest gRPC message between any two processes: a put of pictures fits.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;
/// Most memory that one message may take once it is decoded, its bytes and its parts: the largest that may come, and as
/// much again for what stands around its parts.
pub const MAX_DECODED_BYTES: usize = 2 * MAX_MESSAGE_BYTES;
/// Deadline of a request that carries none, in seconds.
pub const DEFAULT_DEADLINE_SECONDS: u64 = 30;
