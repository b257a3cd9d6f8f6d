//! The ingest stream: every image is its own write, answered as it completes; no more than a window of them is
//! unanswered at once, so that a client is read only as fast as the cluster stores. Images of one id are written in the
//! order in which they came: the last one stays.

mod answers;
mod image;

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::Stream;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason, metadata_of, reason_of};
use omma_common::fair::Part;
use omma_common::limits::{DEFAULT_DEADLINE_SECONDS, MAX_MESSAGE_BYTES};
use omma_common::log_limit::{Line, LogLimit};
use omma_common::serve::{ConnectInfo, MessageParts};
use omma_common::telemetry;
use omma_proto::v1 as pb;
use prost::Message;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::task::{Id, JoinSet};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use self::answers::{answers, too_quiet};
use self::image::{answer_one, answered, gone};
use super::{Coordinator, Place, address_of, caller_of, deadline_of, validate};
use crate::access::{Caller, Client, Deed, Role, Scope, audit, credential};

/// Between two looks at a caller's credentials.
const CHECK_EVERY: Duration = Duration::from_secs(30);

/// The answers, as they complete.
pub(crate) type IngestStream = Pin<Box<dyn Stream<Item = Result<pb::IngestImagesResponse, Status>> + Send>>;

/// A stream that is served. Dropping it (the client is gone) ends what is under way.
struct Ingest {
    coordinator: Arc<Coordinator>,
    inbound: Streaming<pb::IngestImagesRequest>,
    /// No more is read: the client is done, failed, or the process ends. The error ends the stream once all images
    /// that were taken are answered.
    end: Option<Result<(), ApiError>>,
    /// The collection's name, once known.
    collection: Arc<str>,
    /// Collections in which an image was stored, of which the audit log has a line: no more than there are.
    told: BTreeSet<Arc<str>>,
    /// The whole stream's, if the client set one.
    deadline: Option<Deadline>,
    /// The end of the connection's life.
    retired: Pin<Box<dyn Future<Output = ()> + Send>>,
    writes: JoinSet<pb::IngestImagesResponse>,
    /// What each task writes.
    taken: HashMap<Id, Taken>,
    /// For each id that is being written, the end of its newest write.
    newest: HashMap<String, Turn>,
    /// Bytes of all that is unanswered.
    bytes: usize,
    caller: Arc<Caller>,
    address: Option<SocketAddr>,
    /// What the caller showed, and when it was last looked at.
    credential: Option<String>,
    checked: Instant,
    /// When the last message came, or the last answer went.
    active: Instant,
    span: tracing::Span,
    begun: Instant,
    answered: u64,
    /// How the stream ended: `OK`, or the reason.
    outcome: &'static str,
    client: Client,
    /// What the images that came take of the memory for requests.
    kept: Option<MessageParts>,
    _place: Place,
}

/// An unanswered image: what is needed to answer it even if its write panics, where it goes, and its size.
#[derive(Default)]
struct Taken {
    sequence: u64,
    collection: Arc<str>,
    id: String,
    bytes: usize,
    _memory: Option<Part>,
}

/// Becomes ready, with an error, when the write before it has ended, however it ended.
type Turn = oneshot::Receiver<()>;

/// Begins to serve a stream.
pub(crate) fn open(
    coordinator: Arc<Coordinator>,
    request: Request<Streaming<pb::IngestImagesRequest>>,
) -> Result<Response<IngestStream>, Status> {
    let (caller, address) = (caller_of(&request)?, address_of(&request));
    let credential = request.metadata().get("authorization").and_then(|v| v.to_str().ok()).and_then(credential);
    let credential = credential.map(str::to_owned);
    let client = Client::of(&caller, address);
    let place = coordinator.admit_stream(client)?;
    let kept = request.extensions().get::<MessageParts>().cloned();
    let retired: Pin<Box<dyn Future<Output = ()> + Send>> = match request.extensions().get::<ConnectInfo>() {
        Some(info) => Box::pin(info.retired()),
        None => Box::pin(std::future::pending()),
    };
    let ingest = Ingest {
        coordinator,
        deadline: stream_deadline(request.metadata()),
        retired,
        inbound: request.into_inner(),
        end: None,
        collection: "".into(),
        told: BTreeSet::new(),
        writes: JoinSet::new(),
        taken: HashMap::new(),
        newest: HashMap::new(),
        bytes: 0,
        caller,
        address,
        credential,
        checked: Instant::now(),
        active: Instant::now(),
        // The server's: it lives as long as the stream.
        span: tracing::Span::current(),
        begun: Instant::now(),
        answered: 0,
        outcome: "OK",
        client,
        kept,
        _place: place,
    };
    Ok(Response::new(Box::pin(answers(ingest))))
}

/// The stream's deadline if it is sooner than an image's own; longer ones are the client's to enforce.
fn stream_deadline(metadata: &MetadataMap) -> Option<Deadline> {
    metadata.get("grpc-timeout")?;
    let deadline = deadline_of(metadata);
    let most = Duration::from_secs(DEFAULT_DEADLINE_SECONDS - 1);
    (deadline.left() < most).then_some(deadline)
}

impl Ingest {
    /// Whether one more image may be read: few enough are unanswered, and its client has memory left for the largest; one
    /// is always read.
    fn has_room(&self) -> bool {
        let limits = &self.coordinator.limits;
        let memory = |kept: &MessageParts| kept.has_room(self.client.0, MAX_MESSAGE_BYTES);
        self.writes.is_empty()
            || self.writes.len() < limits.ingest_window
                && self.bytes < limits.ingest_bytes
                && self.kept.as_ref().is_none_or(memory)
    }

    /// The next answer; an error or `None` ends the stream.
    async fn next(&mut self) -> Option<Result<pb::IngestImagesResponse, ApiError>> {
        loop {
            let idle = self.coordinator.limits.idle_stream;
            let reading = self.end.is_none() && self.has_room();
            if self.end.is_some() && self.writes.is_empty() {
                let end = self.end.take().unwrap_or(Ok(()));
                self.end = Some(Ok(()));
                self.outcome = end.as_ref().err().map_or("OK", |e| e.reason.name());
                return end.err().map(Err);
            }
            tokio::select! {
                biased;
                Some(done) = self.writes.join_next_with_id() => {
                    self.answered += 1;
                    self.active = Instant::now();
                    return Some(Ok(self.answer(done)));
                }
                () = self.coordinator.shutdown.clone().begun(), if self.end.is_none() => {
                    self.end = Some(Err(ApiError::new(Reason::ShuttingDown, "this coordinator is shutting down")));
                }
                () = &mut self.retired, if self.end.is_none() => {
                    let text = "this connection is as old as one may be: go on over another";
                    self.end = Some(Err(ApiError::new(Reason::ShuttingDown, text)));
                }
                message = self.inbound.message(), if reading => {
                    self.active = Instant::now();
                    if let Err(end) = self.take(message) {
                        self.end = Some(end);
                    }
                }
                () = tokio::time::sleep(idle.saturating_sub(self.active.elapsed())), if reading && self.writes.is_empty() => {
                    self.end = Some(Err(too_quiet(format!("the stream sent nothing for {idle:?}"), idle)));
                }
            }
        }
    }

    /// Starts the write that a message asks for. `Err`: nothing more is read.
    fn take(&mut self, message: Result<Option<pb::IngestImagesRequest>, Status>) -> Result<(), Result<(), ApiError>> {
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => return Err(Ok(())),
            Err(status) => return Err(Err(unreadable(&status))),
        };
        let memory = self.kept.as_ref().and_then(MessageParts::next);
        self.still_known().map_err(Err)?;
        match message.collection.as_str() {
            "" if self.collection.is_empty() => {
                return Err(Err(ApiError::field("collection", "must be set in the stream's first message")));
            }
            same if same.is_empty() || same == &*self.collection => {}
            other => self.turn_to(other).map_err(Err)?,
        }
        let image_deadline = Deadline::after(Duration::from_secs(DEFAULT_DEADLINE_SECONDS));
        let deadline = self.deadline.map_or(image_deadline, |stream| stream.min(image_deadline));
        let id = message.image.as_ref().map(|i| i.id.clone()).unwrap_or_default();
        let (coordinator, collection) = (Arc::clone(&self.coordinator), self.collection.clone());
        let (sequence, bytes) = (message.sequence, message.encoded_len());
        let taken = Taken { sequence, collection: collection.clone(), id, bytes, _memory: memory };
        // A trace of its own: a stream may bring millions.
        let span = tracing::debug_span!(parent: None, "ingest image");
        telemetry::link(&span, &self.span);
        let (ended, next_turn) = oneshot::channel();
        let before = self.newest.insert(taken.id.clone(), next_turn);
        let write = answer_one(coordinator, collection, message, deadline, before).instrument(span);
        let client = self.client;
        let task = self.writes.spawn(async move {
            let answer = client.doing(write).await;
            drop::<oneshot::Sender<()>>(ended);
            answer
        });
        self.bytes += taken.bytes;
        self.taken.insert(task.id(), taken);
        Ok(())
    }

    /// Another collection's images come from here on.
    fn turn_to(&mut self, collection: &str) -> Result<(), ApiError> {
        // Before the check: the log is to say what was denied.
        self.collection = collection.into();
        self.caller.authorise(&Scope::Collection(collection))?;
        validate::collection_name("collection", collection)
    }

    fn audit(&self, collection: &str, outcome: &str) {
        let (caller, address) = (&self.caller, self.address);
        audit(&Deed { caller, address, rpc: "IngestImages", collection, outcome });
    }

    /// A stream may live for days, its caller's credentials not so long.
    fn still_known(&mut self) -> Result<(), ApiError> {
        let (access, Some(credential)) = (&self.coordinator.access, &self.credential) else { return Ok(()) };
        if !access.asks() || self.collection.is_empty() || self.checked.elapsed() < CHECK_EVERY {
            return Ok(());
        }
        self.checked = Instant::now();
        let caller = access.holder(credential)?;
        caller.has(Role::Write)?;
        caller.authorise(&Scope::Collection(&self.collection))?;
        self.caller = Arc::new(caller);
        Ok(())
    }

    fn answer(
        &mut self,
        done: Result<(Id, pb::IngestImagesResponse), tokio::task::JoinError>,
    ) -> pb::IngestImagesResponse {
        let task = done.as_ref().map_or_else(tokio::task::JoinError::id, |(task, _)| *task);
        let taken = self.taken.remove(&task).unwrap_or_default();
        self.bytes -= taken.bytes;
        // Only the newest write's end is kept, and a write of this id may still be under way.
        if self.newest.get_mut(&taken.id).is_some_and(|turn| turn.try_recv() == Err(TryRecvError::Closed)) {
            self.newest.remove(&taken.id);
        }
        match done {
            Ok((_, answer)) => {
                let stored = answer.result.as_ref().is_some_and(|result| result.error.is_none());
                // Anybody can turn to a name: what is stored there says that it is one.
                if stored && self.told.insert(taken.collection.clone()) {
                    self.audit(&taken.collection, "OK");
                }
                // The stream cannot go on without its collection.
                if let Some(error) = gone(&answer, &self.collection)
                    && self.end.as_ref().is_none_or(|end| end.is_ok())
                {
                    self.end = Some(Err(error));
                }
                answer
            }
            Err(error) => {
                let error = ApiError::new(Reason::Internal, format!("the write of this image ended badly: {error}"));
                answered(taken.sequence, taken.id, Err(error))
            }
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        static ENDED: LogLimit = LogLimit::new();
        let millis = self.begun.elapsed().as_secs_f64() * 1e3;
        let (answered, unanswered) = (self.answered, self.writes.len());
        if let Some(Line { skipped }) = ENDED.line() {
            self.span.in_scope(|| tracing::info!(millis, answered, unanswered, skipped, "ingest stream ended"));
        }
        if self.outcome != "OK" || !self.told.contains(&self.collection) {
            self.audit(&self.collection, self.outcome);
        }
    }
}

/// Why the inbound half broke: the client is gone, or sent what is no message or too much.
fn unreadable(status: &Status) -> ApiError {
    let reason = match (reason_of(status), status.code()) {
        (Some(ours), _) => ours,
        (None, tonic::Code::OutOfRange | tonic::Code::ResourceExhausted) => Reason::MessageTooLarge,
        (None, tonic::Code::Internal | tonic::Code::InvalidArgument) => Reason::InvalidArgument,
        _ => Reason::NodeUnreachable,
    };
    let error = ApiError::new(reason, format!("the stream could not be read any further: {}", status.message()));
    let limit = ["limit_name", "limit"].into_iter().filter_map(|key| Some((key, metadata_of(status, key)?)));
    limit.fold(error, |error, (key, value)| error.with(key, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_deadline_binds_the_stream() {
        let with = |timeout: Option<&str>| {
            let mut metadata = MetadataMap::new();
            if let Some(t) = timeout {
                metadata.insert("grpc-timeout", t.parse().unwrap());
            }
            stream_deadline(&metadata).is_some()
        };
        assert!(!with(None));
        assert!(!with(Some("1H")));
        assert!(with(Some("5S")));
    }
}
