//! The public API: checks requests, calls the parts that do the work, shapes answers.

pub(crate) mod backup;
pub(crate) mod cluster;
pub(crate) mod collections;
pub(crate) mod filter;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod images;
pub(crate) mod ingest;
pub(crate) mod moves;
pub(crate) mod nodes;
pub(crate) mod oversize;
pub(crate) mod pages;
pub(crate) mod propose;
pub(crate) mod search;
pub(crate) mod status;
pub(crate) mod validate;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::fair::{Fair, Part};
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_common::log_limit::{Line, LogLimit};
use omma_common::serve::{ConnectInfo, MessageParts};
use omma_common::shutdown::Shutdown;
use omma_common::telemetry;
use prost::Message;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use crate::access::{Access, Caller, Client, Deed, Scoped, audit};
use crate::config::Limits;
use crate::metrics::REFUSED;
use crate::routing::{Collection, Routing};
use crate::scatter::hedge::HedgeDelay;

/// What all services share.
#[derive(Debug)]
pub(crate) struct Coordinator {
    pub(crate) routing: Routing,
    pub(crate) hedge: HedgeDelay,
    pub(crate) limits: Limits,
    pub(crate) shutdown: Shutdown,
    pub(crate) access: Access,
    places: Arc<Fair>,
    /// Those of them that streams may have: half. Others give theirs back soon.
    streams: Arc<Fair>,
}

/// A place among the requests that are served at once, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _place: Part,
    _stream: Option<Part>,
}

/// Each service of the public API is one of these.
#[derive(Debug, Clone)]
pub(crate) struct Api(pub(crate) Arc<Coordinator>);

impl Coordinator {
    pub(crate) fn new(routing: Routing, limits: Limits, access: Access, shutdown: Shutdown) -> Self {
        let (places, streams) = (Fair::new(limits.requests), Fair::new((limits.requests / 2).max(1)));
        Self { routing, hedge: HedgeDelay::default(), limits, shutdown, access, places, streams }
    }

    /// A place for a request, or `OVERLOADED`.
    pub(crate) fn admit(&self, client: Client) -> Result<Place, ApiError> {
        let place = self.places.take(client.0, 1).ok_or_else(|| self.too_many("requests", &self.places, client))?;
        Ok(Place { _place: place, _stream: None })
    }

    /// A place for a stream, which keeps it for as long as it lasts, or `OVERLOADED`.
    pub(crate) fn admit_stream(&self, client: Client) -> Result<Place, ApiError> {
        let stream = self.streams.take(client.0, 1).ok_or_else(|| self.too_many("streams", &self.streams, client))?;
        Ok(Place { _stream: Some(stream), ..self.admit(client)? })
    }

    fn too_many(&self, what: &str, places: &Fair, client: Client) -> ApiError {
        REFUSED.with(&["requests"]).inc();
        let (own, all, most) = (places.taken_by(client.0), places.taken(), places.most());
        let text = format!("this coordinator serves {all} of {most} {what} already, {own} of them this client's");
        ApiError::new(Reason::Overloaded, text).over("max-requests", self.places.most())
    }

    /// Requests that are served, and how many may be.
    pub(crate) fn occupancy(&self) -> (usize, usize) {
        (self.places.taken(), self.places.most())
    }

    /// Runs `work` for the collection of that name; once more if the groups have dropped the one that the cache knew
    /// and another of the same name took its place.
    pub(crate) async fn with_collection<T, F, Fut>(
        &self,
        name: &str,
        deadline: Deadline,
        work: F,
    ) -> Result<T, ApiError>
    where
        F: Fn(Arc<Collection>) -> Fut,
        Fut: Future<Output = Result<T, ApiError>>,
    {
        let collection = self.routing.collection(name, deadline).await?;
        match work(Arc::clone(&collection)).await {
            Err(error) if error.reason == Reason::CollectionNotFound => {
                self.routing.refresh_exactly(deadline).await?;
                let now = self.routing.collection(name, deadline).await?;
                if now.entry.uid == collection.entry.uid { Err(error) } else { work(now).await }
            }
            done => done,
        }
    }
}

/// Who sent a request. The layer in front of all services says so; without it nobody may do anything.
pub(crate) fn caller_of<T>(request: &Request<T>) -> Result<Arc<Caller>, ApiError> {
    let caller = request.extensions().get::<Arc<Caller>>().cloned();
    caller.ok_or_else(|| ApiError::new(Reason::Internal, "the request came past the check of its credentials"))
}

/// Where a request came from.
pub(crate) fn address_of<T>(request: &Request<T>) -> Option<SocketAddr> {
    request.extensions().get::<ConnectInfo>().map(|info| info.address)
}

/// The caller's deadline, a little sooner: our typed error is to arrive before gRPC gives up by itself.
pub(crate) fn deadline_of(metadata: &MetadataMap) -> Deadline {
    let deadline = Deadline::of(metadata);
    let margin = (deadline.left() / 20).min(Duration::from_millis(100));
    deadline.within(deadline.left().saturating_sub(margin))
}

impl Api {
    /// Serves one unary call: place, deadline, the caller's right to what the message is about, the log. Its span is the
    /// server's.
    pub(crate) async fn unary<Req, Res, F, Fut>(
        &self,
        rpc: &'static str,
        request: Request<Req>,
        work: F,
    ) -> Result<Response<Res>, Status>
    where
        Req: Scoped,
        F: FnOnce(Arc<Coordinator>, Req, Deadline) -> Fut,
        Fut: Future<Output = Result<Res, ApiError>>,
        Res: Message,
    {
        let (caller, address) = (caller_of(&request)?, address_of(&request));
        let client = Client::of(&caller, address);
        let _place = self.0.admit(client)?;
        let begun = Instant::now();
        let deadline = deadline_of(request.metadata());
        let kept = request.extensions().get::<MessageParts>().cloned();
        let message = request.into_inner();
        let scope = message.scope();
        let collection = scope.collection().to_owned();
        let answer = match caller.authorise(&scope) {
            Ok(()) => {
                let work = client.doing(work(Arc::clone(&self.0), message, deadline));
                deadline.run(rpc, work).await.and_then(|answer| answer).and_then(|answer| fits(answer, client, kept))
            }
            Err(denied) => Err(denied),
        };
        log(rpc, begun.elapsed(), answer.as_ref().err());
        let outcome = answer.as_ref().err().map_or("OK", |e| e.reason.name());
        audit(&Deed { caller: &caller, address, rpc, collection: &collection, outcome });
        answer.map_err(Status::from)
    }
}

/// An answer that gRPC would refuse to send is the caller's to make smaller; one that fits takes its part of the memory for
/// requests until it is sent.
fn fits<Res: Message>(answer: Res, client: Client, kept: Option<MessageParts>) -> Result<Response<Res>, ApiError> {
    let (bytes, limit) = (answer.encoded_len(), MAX_MESSAGE_BYTES);
    if bytes <= limit {
        let mut response = Response::new(answer);
        if let Some(kept) = kept {
            let part = kept.answer(client.0, bytes).inspect_err(|_| REFUSED.with(&["arriving"]).inc())?;
            response.extensions_mut().insert(part);
        }
        return Ok(response);
    }
    let text = format!("the answer has {bytes} bytes and {limit} fit into a message: ask for less at a time");
    Err(ApiError::new(Reason::MessageTooLarge, text).over("message bytes", limit))
}

/// One line for each request: bugs and damage loudly, but not without bound; the rest for those who ask.
fn log(rpc: &'static str, took: Duration, error: Option<&ApiError>) {
    static FAILURES: LogLimit = LogLimit::new();
    let (millis, trace_id) = (took.as_secs_f64() * 1e3, telemetry::trace_id());
    match error {
        None => tracing::debug!(rpc, millis, trace_id, "answered"),
        Some(e) if matches!(e.reason, Reason::Internal | Reason::DataLoss) => {
            if let Some(Line { skipped }) = FAILURES.line() {
                tracing::warn!(rpc, millis, trace_id, reason = e.reason.name(), error = %e, skipped, "failed");
            }
        }
        Some(e) => tracing::debug!(rpc, millis, trace_id, reason = e.reason.name(), error = %e, "refused"),
    }
}
