//! The Rust client of Omma, an image-search engine: pictures in, the pictures that look most like one out.
//!
//! ```no_run
//! # async fn example() -> Result<(), omma_client::ClientError> {
//! use omma_client::{Omma, SearchOptions, query};
//!
//! let omma = Omma::connect("http://127.0.0.1:7700").await?;
//! let picture = std::fs::read("cat.jpg").unwrap_or_default();
//! let answer = omma.search("photos", query::picture(picture, 10), &SearchOptions::default()).await?;
//! for hit in answer.hits {
//!     println!("{:.3} {}", hit.score, hit.id);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Every call has a deadline (30 s unless [`Builder::timeout`] says otherwise) that covers its retries. Reads, and
//! writes because each carries a request id, are retried when the server says that it helps or when the connection
//! broke. Many images go in through [`Omma::ingest`], which outlives a broken connection.
//!
//! With the feature `trace`, each call is a `tracing` span whose W3C context goes along, so that the traces of a program
//! that has OpenTelemetry's layer lead through Omma.

#![forbid(unsafe_code)]

pub mod attributes;
mod backup;
mod call;
mod cluster;
mod collections;
mod connect;
mod error;
pub mod filter;
mod images;
mod ingest;
pub mod query;
mod retry;
mod search;
mod session;

pub use call::Omma;
pub(crate) use call::Settings;
pub use collections::CollectionOptions;
pub use connect::Builder;
pub use error::{ClientError, FieldProblem, Origin};
pub use images::{PutOutcome, ReadOptions, image_from_embedding, image_from_picture};
pub use ingest::{IngestOptions, Ingested};
/// The messages of the public API.
pub use omma_proto::v1 as proto;
pub use search::SearchOptions;
pub use session::Session;
