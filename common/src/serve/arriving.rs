//! Bounds what requests take from when their first byte comes until their answer is sent, over all connections.
//!
//! A message is weighed while it comes ([`weigh`]): its bytes, and what its parts take once they are decoded, before they
//! are. One that takes too much is refused by itself. What all of them take comes out of one budget, which clients share so
//! that whoever comes next finds some ([`Fair`]): a message that is whole keeps its part until its request is answered, and
//! the answer its own until it is sent; where there is none left, one that is not whole gives way, the oldest first: honest
//! ones arrive quickly.

mod body;
mod halves;
mod refusal;
mod shapes;
mod weigh;

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response};
use parking_lot::Mutex;
use tonic::Status;
use tonic::body::Body;

use self::body::Counting;
use self::halves::Halves;
use self::shapes::Shapes;
use super::track::hold;
use crate::error::ApiError;
use crate::fair::{Fair, Part};
use crate::limits::MAX_DECODED_BYTES;
use crate::metrics::Counter;

/// Bytes of an answer that is never refused: as many as a client may have requests at once are little together.
const SMALL_ANSWER: usize = 16 << 10;

/// Which client a request is from, as an extension of it: a number. Where there is none, all are one.
#[derive(Debug, Clone, Copy)]
pub struct Whose(pub u64);

/// Layer that bounds them.
#[derive(Debug, Clone)]
pub struct Arriving {
    memory: Arc<Fair>,
    /// Counts what finds no room in the memory; `None`: there is always room.
    refused: Option<Counter>,
    halves: Arc<Halves>,
    shapes: Arc<Shapes>,
    /// Of one message, once it is decoded.
    largest: usize,
}

impl Arriving {
    /// At most `most` bytes of them, and [`MAX_DECODED_BYTES`] for one message. What finds no room is counted in `refused`.
    pub fn new(most: usize, refused: Counter) -> Self {
        Self { refused: Some(refused), ..Self::each(MAX_DECODED_BYTES) }.sharing(most)
    }

    /// At most `largest` bytes for one message, any number of messages.
    pub fn each(largest: usize) -> Self {
        let shapes = Arc::new(Shapes::of(omma_proto::DESCRIPTORS));
        let memory = Fair::new(usize::MAX);
        let halves = Arc::new(Halves::new(memory.clone()));
        Self { memory, refused: None, halves, shapes, largest }
    }

    fn sharing(mut self, most: usize) -> Self {
        self.memory = Fair::new(most);
        self.halves = Arc::new(Halves::new(self.memory.clone()));
        self
    }

    fn refuse(&self) -> Status {
        self.refused.iter().for_each(Counter::inc);
        refusal::no_room(self.memory.most()).to_status()
    }
}

/// What an answer takes: an extension of it, until it is sent or nobody waits for it any more.
#[derive(Debug, Clone)]
pub struct AnswerPart {
    _part: Arc<Part>,
}

/// What the messages of one request take that came whole, in their order: an extension of it. Of a stream, each message's
/// part is its handler's to take, and to keep for as long as it keeps the message; what it leaves stays until the stream
/// ends.
#[derive(Debug, Clone)]
pub struct MessageParts {
    memory: Arc<Fair>,
    parts: Arc<Mutex<VecDeque<Part>>>,
}

impl MessageParts {
    fn new(memory: Arc<Fair>) -> Self {
        Self { memory, parts: Arc::default() }
    }

    fn push(&self, part: Part) {
        self.parts.lock().push_back(part);
    }

    /// Of the oldest message whose part was not taken yet.
    pub fn next(&self) -> Option<Part> {
        self.parts.lock().pop_front()
    }

    /// The memory for an answer of `bytes`, to be put into the answer's extensions. A small one is not refused: the client
    /// is to know what became of its request.
    ///
    /// # Errors
    /// If the client has its share already.
    pub fn answer(&self, client: u64, bytes: usize) -> Result<AnswerPart, ApiError> {
        let part = match bytes <= SMALL_ANSWER {
            true => Some(self.memory.take_anyway(client, bytes)),
            false => self.memory.take(client, bytes),
        };
        part.map(|part| AnswerPart { _part: Arc::new(part) }).ok_or_else(|| refusal::no_room(self.memory.most()))
    }

    /// Whether a message of `bytes` from this client would find room.
    pub fn has_room(&self, client: u64, bytes: usize) -> bool {
        self.memory.has_room(client, bytes)
    }
}

impl<S> tower::Layer<S> for Arriving {
    type Service = Weighed<S>;

    fn layer(&self, inner: S) -> Weighed<S> {
        Weighed { inner, arriving: self.clone() }
    }
}

/// A service whose requests are weighed and counted.
#[derive(Debug, Clone)]
pub struct Weighed<S> {
    inner: S,
    arriving: Arriving,
}

impl<S> tower::Service<Request<Body>> for Weighed<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (arriving, kept) = (self.arriving.clone(), MessageParts::new(self.arriving.memory.clone()));
        let call = arriving.shapes.call(request.uri().path());
        let client = request.extensions().get::<Whose>().map_or(0, |whose| whose.0);
        let mut request = request.map(|body| Body::new(Counting::new(body, arriving, client, call, kept.clone())));
        request.extensions_mut().insert(kept.clone());
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (mut head, body) = answer.await?.into_parts();
            // A request of one message is answered here. A stream's handler has its own.
            drop(kept);
            let body = match head.extensions.remove::<AnswerPart>() {
                Some(part) => hold(body, part),
                None => body,
            };
            Ok(Response::from_parts(head, body))
        })
    }
}

#[cfg(test)]
mod tests;
