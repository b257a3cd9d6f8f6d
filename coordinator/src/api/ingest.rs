//! The ingest stream: every image is its own write, answered as it completes; no more than a window of them is
//! unanswered at once, so that a client is read only as fast as the cluster stores. Images of one id are written in the
//! order in which they came: the last one stays.
//!
//! A stream is served by a task of its own: nobody asks a stream's body for more while its client reads nothing, and a
//! stream that is not read has to end, too.

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
use omma_common::serve::{ConnectInfo, Kept};
use omma_common::telemetry;
use omma_proto::v1 as pb;
use omma_proto::v1::new_image::Content;
use prost::Message;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinSet};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::{Coordinator, Place, address_of, caller_of, deadline_of, validate};
use crate::access::{Caller, Client, Deed, Role, Scope, audit, credential};
use crate::write;

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
    kept: Option<Kept>,
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
    let kept = request.extensions().get::<Kept>().cloned();
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

/// The answers of a stream that is served. Dropping them ends it.
fn answers(ingest: Ingest) -> impl Stream<Item = Result<pb::IngestImagesResponse, Status>> + Send {
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

/// The stream's deadline if it is sooner than an image's own; longer ones are the client's to enforce.
fn stream_deadline(metadata: &MetadataMap) -> Option<Deadline> {
    metadata.get("grpc-timeout")?;
    let deadline = deadline_of(metadata);
    let most = Duration::from_secs(DEFAULT_DEADLINE_SECONDS - 1);
    (deadline.left() < most).then_some(deadline)
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

    /// Whether one more image may be read: few enough are unanswered, and its client has memory left for the largest; one
    /// is always read.
    fn has_room(&self) -> bool {
        let limits = &self.coordinator.limits;
        let memory = |kept: &Kept| kept.has_room(self.client.0, MAX_MESSAGE_BYTES);
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
        let memory = self.kept.as_ref().and_then(Kept::next);
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

/// The client sends nothing, or reads nothing.
fn too_quiet(text: String, patience: Duration) -> ApiError {
    ApiError::new(Reason::DeadlineExceeded, text).over("idle-stream-seconds", patience.as_secs())
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

/// Whether an answer says that the collection does not exist (any more).
fn gone(answer: &pb::IngestImagesResponse, collection: &str) -> Option<ApiError> {
    let error = answer.result.as_ref()?.error.as_ref()?;
    (error.code == tonic::Code::NotFound as i32).then(|| crate::routing::cache::unknown_collection(collection))
}

async fn answer_one(
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

fn answered(sequence: u64, id: String, put: Result<write::Put, ApiError>) -> pb::IngestImagesResponse {
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
