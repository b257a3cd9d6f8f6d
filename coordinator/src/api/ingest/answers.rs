//! A stream is served by a task of its own: nobody asks a stream's body for more while its client reads nothing, and a
//! stream that is not read has to end, too.

use std::time::Duration;

use futures::Stream;
use omma_common::error::{ApiError, Reason};
use omma_proto::v1 as pb;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tonic::Status;
use tracing::Instrument;

use super::Ingest;

/// The answers of a stream that is served. Dropping them ends it.
pub(super) fn answers(ingest: Ingest) -> impl Stream<Item = Result<pb::IngestImagesResponse, Status>> + Send {
    let (to, answers) = mpsc::channel(1);
    let (ended, end) = oneshot::channel();
    let mut task = JoinSet::new();
    let span = ingest.span.clone();
    let serve = async move {
        // Nobody may be left who wants to know.
        let _ = ended.send(ingest.serve(to).await);
    };
    task.spawn(serve.instrument(span));
    futures::stream::unfold((answers, Some(end), task), |(mut answers, mut end, task)| async move {
        if let Some(answer) = answers.recv().await {
            return Some((Ok(answer), (answers, end, task)));
        }
        let ended =
            end.take()?.await.unwrap_or_else(|_| Err(ApiError::new(Reason::Internal, "the stream ended badly")));
        Some((Err(ended.err()?.to_status()), (answers, None, task)))
    })
}

impl Ingest {
    /// Serves the stream to its end, answer by answer; the next only once there is room for it, for which it waits as long
    /// as it would for an image.
    async fn serve(mut self, to: mpsc::Sender<pb::IngestImagesResponse>) -> Result<(), ApiError> {
        let patience = self.coordinator.limits.idle_stream;
        loop {
            match tokio::time::timeout(patience, to.reserve()).await {
                Ok(Ok(room)) => match self.next().await {
                    Some(Ok(answer)) => room.send(answer),
                    Some(Err(error)) => return Err(error),
                    None => return Ok(()),
                },
                Ok(Err(_)) => return Ok(()),
                Err(_) => {
                    let error = too_quiet(format!("an answer of the stream was not read for {patience:?}"), patience);
                    self.outcome = error.reason.name();
                    return Err(error);
                }
            }
        }
    }
}

/// The client sends nothing, or reads nothing.
pub(super) fn too_quiet(text: String, patience: Duration) -> ApiError {
    ApiError::new(Reason::DeadlineExceeded, text).over("idle-stream-seconds", patience.as_secs())
}
