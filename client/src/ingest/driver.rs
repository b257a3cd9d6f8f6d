//! The task that holds the stream.

use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use omma_common::retry::Backoff;
use omma_proto::v1::{IngestImagesRequest, IngestImagesResponse, NewImage, PutEffect};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::window::{Pending, Window};
use super::{IngestOptions, Ingested};
use crate::call::{Omma, new_request_id};
use crate::error::{ClientError, Failure, Origin};
use crate::images::PutOutcome;
use crate::retry::wait_before_retry;

/// Why a connection is over.
enum End {
    /// Everything is answered and the source is exhausted.
    Done,
    /// Nobody wants the outcomes.
    Unwanted,
    /// The stream broke; another may work.
    Broken(ClientError),
    /// The server refused the stream as such.
    Refused(ClientError),
}

/// One open stream.
struct Connection {
    requests: mpsc::Sender<IngestImagesRequest>,
    responses: Streaming<IngestImagesResponse>,
}

impl Connection {
    /// Never waits; fails if the stream is no longer read.
    fn send(&self, request: IngestImagesRequest) -> Result<(), ()> {
        self.requests.try_send(request).map_err(|_| ())
    }
}

/// What happens next on a connection.
enum Event {
    Image(Option<NewImage>),
    Answer(Result<Option<IngestImagesResponse>, tonic::Status>),
    RetryDue,
    Silence,
    Unwanted,
}

pub(super) struct Driver {
    omma: Omma,
    collection: String,
    options: IngestOptions,
    window: Window,
    outcomes: mpsc::Sender<Result<Ingested, ClientError>>,
    source_ended: bool,
    /// When an answer came last, or when images began to wait for one.
    last_sign: Instant,
    answered_on_this_connection: bool,
}

impl Driver {
    pub(super) fn new(
        omma: Omma,
        collection: String,
        options: IngestOptions,
        outcomes: mpsc::Sender<Result<Ingested, ClientError>>,
    ) -> Self {
        let window = Window::new(options.window_images, options.window_bytes);
        Self {
            omma,
            collection,
            options,
            window,
            outcomes,
            source_ended: false,
            last_sign: Instant::now(),
            answered_on_this_connection: false,
        }
    }

    pub(super) async fn run(mut self, mut images: BoxStream<'static, NewImage>) {
        let mut failures = 0;
        let mut backoff = reconnect_backoff();
        loop {
            // A stream is opened by an image, never by nothing: a server may wait for the first message to answer.
            if self.window.is_empty() {
                let image = tokio::select! {
                    image = images.next() => image,
                    () = self.outcomes.closed() => return,
                };
                let Some(image) = image else { return };
                self.take_in(image);
            }
            self.answered_on_this_connection = false;
            let end = match self.open().await {
                Ok(connection) => self.serve(connection, &mut images).await,
                Err(end) => end,
            };
            let error = match end {
                End::Done | End::Unwanted => return,
                End::Refused(error) => return self.give_up(error).await,
                End::Broken(error) => error,
            };
            if self.answered_on_this_connection {
                (failures, backoff) = (0, reconnect_backoff());
            }
            failures += 1;
            if failures > self.options.reconnects {
                return self.give_up(error).await;
            }
            let wait = error.retry_after().unwrap_or_default().max(backoff.next_wait());
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.outcomes.closed() => return,
            }
        }
    }

    fn take_in(&mut self, image: NewImage) -> IngestImagesRequest {
        let now = Instant::now();
        if self.window.is_empty() {
            self.last_sign = now;
        }
        self.window.push(&self.collection, image, new_request_id(), now)
    }

    /// Opens a stream and sends everything unanswered on it.
    async fn open(&mut self) -> Result<Connection, End> {
        // Room for the whole window: an image is in the channel at most once, so that sending never waits.
        let (requests, outgoing) = mpsc::channel(self.options.window_images.max(1));
        for request in self.window.resend() {
            requests.try_send(request).map_err(|_| End::Broken(window_overrun()))?;
        }
        self.last_sign = Instant::now();
        let mut client = self.omma.images();
        #[cfg_attr(not(feature = "trace"), allow(unused_mut))]
        let mut request = tonic::Request::new(ReceiverStream::new(outgoing));
        #[cfg(feature = "trace")]
        omma_common::telemetry::inject(request.metadata_mut());
        let opening = client.ingest_images(request);
        match tokio::time::timeout(self.options.patience, opening).await {
            Ok(Ok(response)) => Ok(Connection { requests, responses: response.into_inner() }),
            Ok(Err(status)) => Err(judge(status.into())),
            Err(_) => Err(End::Broken(self.silence())),
        }
    }

    async fn serve(&mut self, mut connection: Connection, images: &mut BoxStream<'static, NewImage>) -> End {
        loop {
            if self.source_ended && self.window.is_empty() {
                return End::Done;
            }
            let sent = match self.next_event(&mut connection, images).await {
                Event::Unwanted => return End::Unwanted,
                Event::Silence => return End::Broken(self.silence()),
                Event::Image(None) => {
                    self.source_ended = true;
                    Ok(())
                }
                Event::Image(Some(image)) => {
                    let request = self.take_in(image);
                    connection.send(request)
                }
                Event::RetryDue => {
                    let due = self.window.take_due(Instant::now());
                    due.into_iter().try_for_each(|request| connection.send(request))
                }
                Event::Answer(Ok(Some(answer))) => {
                    if self.settle(answer).await.is_err() {
                        return End::Unwanted;
                    }
                    Ok(())
                }
                Event::Answer(Ok(None)) => {
                    return End::Broken(ClientError::transport(Failure::Broken, "the server ended the stream"));
                }
                Event::Answer(Err(status)) => return judge(status.into()),
            };
            if sent.is_err() {
                // The receiving half is gone: the response side will say why.
                return match connection.responses.message().await {
                    Err(status) => judge(status.into()),
                    Ok(_) => {
                        End::Broken(ClientError::transport(Failure::Broken, "the server stopped reading the stream"))
                    }
                };
            }
        }
    }

    async fn next_event(&self, connection: &mut Connection, images: &mut BoxStream<'static, NewImage>) -> Event {
        let wants_image = !self.source_ended && self.window.has_room();
        let waits = !self.window.is_empty();
        let silence_at = self.last_sign + self.options.patience;
        let retry_at = self.window.next_due();
        tokio::select! {
            biased;
            () = self.outcomes.closed() => Event::Unwanted,
            answer = connection.responses.message() => Event::Answer(answer),
            () = tokio::time::sleep_until(retry_at.unwrap_or(silence_at)), if retry_at.is_some() => Event::RetryDue,
            image = images.next(), if wants_image => Event::Image(image),
            () = tokio::time::sleep_until(silence_at), if waits => Event::Silence,
        }
    }

    /// Hands one answer out, or lets its image wait for another try.
    async fn settle(&mut self, answer: IngestImagesResponse) -> Result<(), ()> {
        let now = Instant::now();
        self.last_sign = now;
        self.answered_on_this_connection = true;
        let Some((refusals, age)) = self.window.history(answer.sequence, now) else { return Ok(()) };
        let outcome = match answer.result {
            Some(result) => PutOutcome::from_result(result).result,
            None => Err(ClientError::malformed("result for an image")),
        };
        if let Err(error) = &outcome
            && let Some(wait) = wait_for_refused(error, refusals, age, self.options.patience)
        {
            self.window.postpone(answer.sequence, now + wait);
            return Ok(());
        }
        self.omma.remember(answer.session_token.as_ref());
        match self.window.answer(answer.sequence) {
            Some(pending) => self.hand_out(pending, outcome).await,
            None => Ok(()),
        }
    }

    async fn hand_out(&self, pending: Pending, result: Result<PutEffect, ClientError>) -> Result<(), ()> {
        let position = pending.request.sequence - 1;
        let id = pending.request.image.map(|image| image.id).unwrap_or_default();
        self.outcomes.send(Ok(Ingested { position, id, result })).await.map_err(|_| ())
    }

    /// Every unanswered image has `error` as its outcome; then the error itself.
    async fn give_up(mut self, error: ClientError) {
        for pending in self.window.drain() {
            if self.hand_out(pending, Err(error.clone())).await.is_err() {
                return;
            }
        }
        // Fails only if nobody listens any more.
        let _ = self.outcomes.send(Err(error)).await;
    }

    fn silence(&self) -> ClientError {
        let (waiting, patience) = (self.window.len(), self.options.patience);
        ClientError::transport(
            Failure::Silent,
            format!("{waiting} images are unanswered and none was answered for {patience:?}"),
        )
    }
}

fn reconnect_backoff() -> Backoff {
    Backoff::new(Duration::from_millis(50), Duration::from_secs(2))
}

fn window_overrun() -> ClientError {
    ClientError::invalid("more images are unanswered than the window holds")
}

/// Whether a stream that ended with `error` is worth opening again. What a proxy or a dying server says can be
/// anything; only an answer that is certain to be given again is final.
fn judge(error: ClientError) -> End {
    use tonic::Code::{Aborted, Cancelled, DeadlineExceeded, Internal, ResourceExhausted, Unavailable, Unknown};
    let passing = match (error.origin(), error.reason()) {
        (Origin::Transport, _) => true,
        (_, Some(_)) if error.code() != DeadlineExceeded => wait_before_retry(&error).is_some(),
        _ => matches!(
            error.code(),
            Aborted | Cancelled | DeadlineExceeded | Internal | ResourceExhausted | Unavailable | Unknown
        ),
    };
    if passing { End::Broken(error) } else { End::Refused(error) }
}

/// How long a refused image waits for its next try; `None`: its error is final. The waits double with each refusal.
fn wait_for_refused(error: &ClientError, refusals: u32, age: Duration, patience: Duration) -> Option<Duration> {
    if error.origin() != Origin::Server {
        return None;
    }
    let hint = wait_before_retry(error)?.max(Duration::from_millis(10));
    let wait = hint.saturating_mul(1 << refusals.min(5)).min(Duration::from_secs(2));
    (age + wait < patience).then_some(wait)
}

#[cfg(test)]
mod tests {
    use omma_common::error::{ApiError, Reason};

    use super::*;

    #[test]
    fn refusals_wait_longer_each_time_but_not_for_ever() {
        let error = ClientError::from(ApiError::new(Reason::Overloaded, "full").to_status());
        let patience = Duration::from_secs(10);
        let wait = |refusals, age| wait_for_refused(&error, refusals, Duration::from_secs(age), patience);
        assert_eq!(wait(0, 0), Some(Duration::from_millis(100)));
        assert_eq!(wait(2, 0), Some(Duration::from_millis(400)));
        assert_eq!(wait(40, 0), Some(Duration::from_secs(2)));
        assert_eq!(wait(0, 10), None);
        let bad = ClientError::from(ApiError::new(Reason::InvalidPicture, "no picture").to_status());
        assert_eq!(wait_for_refused(&bad, 0, Duration::ZERO, patience), None);
    }

    #[test]
    fn a_stream_that_is_refused_is_not_opened_again() {
        let of = |reason| ClientError::from(ApiError::new(reason, "x").to_status());
        assert!(matches!(judge(of(Reason::CollectionNotFound)), End::Refused(_)));
        assert!(matches!(judge(of(Reason::ShuttingDown)), End::Broken(_)));
        assert!(matches!(judge(ClientError::transport(Failure::Broken, "reset")), End::Broken(_)));
        assert!(matches!(judge(tonic::Status::cancelled("gone").into()), End::Broken(_)));
        assert!(matches!(judge(tonic::Status::unknown("h2 protocol error").into()), End::Broken(_)));
        assert!(matches!(judge(tonic::Status::permission_denied("no").into()), End::Refused(_)));
    }
}
