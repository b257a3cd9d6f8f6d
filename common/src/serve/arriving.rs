//! Bounds the bytes of messages that are still arriving, over all connections. A message is gathered in memory until it
//! is whole; whoever sends many slowly would fill the memory with halves. When there are more bytes than may be, the
//! message that began first gives way: honest ones arrive quickly.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use crate::error::{ApiError, Reason};
use crate::metrics::Counter;

/// Bytes of the head of each message: whether it is compressed, and its length.
const HEAD: usize = 5;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A message that is not whole yet.
#[derive(Debug)]
struct Half {
    bytes: usize,
    waker: Option<Waker>,
    gives_way: bool,
}

#[derive(Debug, Default)]
struct Halves {
    /// By when they began: numbers grow.
    by_age: BTreeMap<u64, Half>,
    bytes: usize,
    next: u64,
}

/// Layer that bounds them.
#[derive(Debug, Clone)]
pub struct Arriving {
    most: usize,
    refused: Counter,
    halves: Arc<Mutex<Halves>>,
}

impl Arriving {
    /// At most `most` bytes of them. What gives way is counted in `refused`.
    pub fn new(most: usize, refused: Counter) -> Self {
        Self { most, refused, halves: Arc::default() }
    }

    /// A message of which nothing has come yet.
    fn begin(&self) -> u64 {
        let mut halves = lock(&self.halves);
        halves.next += 1;
        let id = halves.next;
        halves.by_age.insert(id, Half { bytes: 0, waker: None, gives_way: false });
        id
    }

    /// Notes that `bytes` more of the message have come. `false`: it gives way.
    fn grow(&self, id: u64, bytes: usize) -> bool {
        let mut halves = lock(&self.halves);
        let Some(half) = halves.by_age.get_mut(&id).filter(|half| !half.gives_way) else { return false };
        half.bytes += bytes;
        halves.bytes += bytes;
        while halves.bytes > self.most {
            // What gives way counts no more: its task drops it as soon as it runs.
            let Some((oldest, half)) = halves.by_age.iter_mut().find(|(_, half)| !half.gives_way) else { break };
            half.gives_way = true;
            half.waker.take().into_iter().for_each(Waker::wake);
            let (oldest, freed) = (*oldest, half.bytes);
            halves.bytes -= freed;
            if oldest == id {
                return false;
            }
        }
        true
    }

    /// Whether the message has to give way; else whoever waits for more of it is woken when it has to.
    fn gives_way(&self, id: u64, cx: &Context<'_>) -> bool {
        let mut halves = lock(&self.halves);
        let Some(half) = halves.by_age.get_mut(&id) else { return false };
        half.waker = Some(cx.waker().clone());
        half.gives_way
    }

    fn end(&self, id: u64) {
        let mut halves = lock(&self.halves);
        if let Some(half) = halves.by_age.remove(&id).filter(|half| !half.gives_way) {
            halves.bytes -= half.bytes;
        }
    }

    /// To a message that gives way.
    fn refuse(&self) -> Status {
        self.refused.inc();
        let text = format!("requests of more than {} bytes are arriving, and this one is the slowest", self.most);
        ApiError::new(Reason::Overloaded, text).over("max-arriving-mib", self.most >> 20).to_status()
    }
}

impl<S> tower::Layer<S> for Arriving {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, arriving: self.clone() }
    }
}

/// A service whose requests' bytes are counted as they arrive.
#[derive(Debug, Clone)]
pub struct Counted<S> {
    inner: S,
    arriving: Arriving,
}

impl<S> tower::Service<Request<Body>> for Counted<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let arriving = self.arriving.clone();
        self.inner
            .call(request.map(|inner| Body::new(Counting { inner, arriving, id: None, at: At::Head(Vec::new()) })))
    }
}

/// Where in its messages a body is.
#[derive(Debug)]
enum At {
    /// So much of a message's head is there.
    Head(Vec<u8>),
    /// So many bytes of it are missing.
    Message(u64),
}

impl At {
    /// Goes on by `bytes`; returns how many of them belong to a message that is not whole after them.
    fn advance(&mut self, mut bytes: &[u8]) -> usize {
        let mut pending = 0;
        while !bytes.is_empty() {
            match self {
                Self::Head(head) => {
                    let (more, rest) = bytes.split_at(bytes.len().min(HEAD - head.len()));
                    head.extend_from_slice(more);
                    (bytes, pending) = (rest, pending + more.len());
                    if let [_, length @ ..] = head.as_slice()
                        && let Ok(length) = <[u8; 4]>::try_from(length)
                    {
                        *self = match u64::from(u32::from_be_bytes(length)) {
                            0 => Self::Head(Vec::new()),
                            length => Self::Message(length),
                        };
                    }
                }
                Self::Message(missing) => {
                    let take = usize::try_from(*missing).map_or(bytes.len(), |missing| missing.min(bytes.len()));
                    (bytes, pending) = (&bytes[take..], pending + take);
                    *missing -= take as u64;
                    if *missing == 0 {
                        *self = Self::Head(Vec::new());
                    }
                }
            }
            if matches!(self, Self::Head(head) if head.is_empty()) {
                pending = 0;
            }
        }
        pending
    }

    fn between(&self) -> bool {
        matches!(self, Self::Head(head) if head.is_empty())
    }
}

struct Counting {
    inner: Body,
    arriving: Arriving,
    /// Of the message that is arriving.
    id: Option<u64>,
    at: At,
}

impl Counting {
    /// Counts what has come. An error: the message gives way.
    fn count(&mut self, bytes: &[u8]) -> Result<(), Status> {
        let whole_before = self.at.between();
        let pending = self.at.advance(bytes);
        // Another message began within these bytes, or the one that was there has ended.
        if (self.at.between() || whole_before || pending < bytes.len())
            && let Some(id) = self.id.take()
        {
            self.arriving.end(id);
        }
        if pending > 0 {
            let arriving = &self.arriving;
            let id = *self.id.get_or_insert_with(|| arriving.begin());
            if !arriving.grow(id, pending) {
                return Err(arriving.refuse());
            }
        }
        Ok(())
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            self.arriving.end(id);
        }
    }
}

impl http_body::Body for Counting {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.id.is_some_and(|id| self.arriving.gives_way(id, cx)) {
            return Poll::Ready(Some(Err(self.arriving.refuse())));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            // Bytes are shared: this copies none.
            let bytes = bytes.clone();
            if let Err(refusal) = self.count(&bytes) {
                return Poll::Ready(Some(Err(refusal)));
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    fn message(length: usize) -> Vec<u8> {
        [&[0][..], &(length as u32).to_be_bytes(), &vec![7; length]].concat()
    }

    fn counting(arriving: &Arriving) -> Counting {
        Counting { inner: Body::empty(), arriving: arriving.clone(), id: None, at: At::Head(Vec::new()) }
    }

    static REFUSED: LazyLock<Counter> = LazyLock::new(|| Counter::new("omma_test_refused_total", "Refused."));

    fn at_most(bytes: usize) -> Arriving {
        Arriving::new(bytes, REFUSED.clone())
    }

    fn pending(arriving: &Arriving) -> usize {
        lock(&arriving.halves).bytes
    }

    #[test]
    fn only_halves_count() {
        let bytes = [message(100), message(0), message(3), message(50)].concat();
        for step in [1, 2, 7, 60, bytes.len()] {
            let arriving = at_most(1000);
            let mut body = counting(&arriving);
            for (n, piece) in bytes.chunks(step).enumerate() {
                body.count(piece).unwrap();
                let sent = bytes.len().min((n + 1) * step);
                let begin = [173, 118, 110, 105, 0].into_iter().find(|end| *end <= sent).unwrap();
                assert_eq!(pending(&arriving), sent - begin, "step {step}, {sent} sent");
            }
            assert_eq!(pending(&arriving), 0);
            body.count(&message(9)[..8]).unwrap();
            assert_eq!(pending(&arriving), 8);
            drop(body);
            assert_eq!(pending(&arriving), 0);
        }
    }

    #[test]
    fn the_one_that_began_first_gives_way() {
        let arriving = at_most(250);
        let (mut slow, mut other, mut quick) = (counting(&arriving), counting(&arriving), counting(&arriving));
        slow.count(&message(500)[..100]).unwrap();
        other.count(&message(500)[..100]).unwrap();
        quick.count(&message(90)[..90]).unwrap();
        assert_eq!(pending(&arriving), 190);
        assert!(slow.count(&[7]).is_err() && arriving.gives_way(slow.id.unwrap(), &Context::from_waker(Waker::noop())));
        assert_eq!(REFUSED.get(), 1);
        assert!(other.count(&[7]).is_ok() && quick.count(&[7; 5]).is_ok());
        assert_eq!(pending(&arriving), 101);
        drop((slow, other, quick));
        assert!(pending(&arriving) == 0 && lock(&arriving.halves).by_age.is_empty());
    }
}
