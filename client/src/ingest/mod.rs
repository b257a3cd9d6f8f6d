//! Many images in: a stream of images becomes a stream of outcomes.
//!
//! One task owns the bidirectional gRPC stream. At most a window of images is unanswered at any time; the source is
//! read only while there is room, so that memory stays bounded however slow the cluster is. When the stream breaks,
//! a new one is opened and the unanswered images are sent again with the request ids that they had, so that each
//! takes effect once.

mod driver;
mod window;

use std::time::Duration;

use futures::Stream;
use omma_proto::v1::{NewImage, PutEffect};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument;

use crate::call::Omma;
use crate::error::ClientError;
use driver::Driver;

/// Bounds of an ingest.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Most images that are unanswered at a time.
    pub window_images: usize,
    /// About how many bytes may be unanswered at a time; the last image taken in may exceed it.
    pub window_bytes: usize,
    /// Most times in a row that a broken stream is opened again without one answer in between.
    pub reconnects: u32,
    /// Longest wait for any answer while some are due; then the stream counts as broken. Also how long one image
    /// is tried again after errors that a retry may help.
    pub patience: Duration,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self { window_images: 256, window_bytes: 32 << 20, reconnects: 20, patience: Duration::from_secs(30) }
    }
}

/// What became of one image of an ingest.
#[derive(Debug, Clone)]
pub struct Ingested {
    /// Place of the image in the source, from 0.
    pub position: u64,
    /// The image's id.
    pub id: String,
    /// What the put did, or why the image is not known to be stored.
    pub result: Result<PutEffect, ClientError>,
}

impl Omma {
    /// Puts a stream of images. Outcomes come as the cluster answers, in any order, one for each image taken from
    /// the source; a bad image is one bad outcome.
    ///
    /// If no stream can be held any more, each unanswered image has that error as its outcome, and the last item is
    /// the error itself: the rest of the source was not read. Dropping the returned stream stops the ingest; what
    /// was sent by then may be stored.
    pub fn ingest<S>(
        &self,
        collection: &str,
        images: S,
        options: IngestOptions,
    ) -> impl Stream<Item = Result<Ingested, ClientError>> + Send + Unpin + use<S>
    where
        S: Stream<Item = NewImage> + Send + 'static,
    {
        let (outcomes, receiver) = mpsc::channel(options.window_images.max(1));
        let driver = Driver::new(self.clone(), collection.to_owned(), options, outcomes);
        let span = tracing::info_span!("call", otel.name = "IngestImages", otel.kind = "client");
        tokio::spawn(driver.run(Box::pin(images)).instrument(span));
        ReceiverStream::new(receiver)
    }
}
