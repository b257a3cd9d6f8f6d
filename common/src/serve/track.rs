//! Tells a connection which of its requests run.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::connection::ConnectInfo;
use super::unsent::Sending;

/// Layer for a server whose connections come from [`super::Incoming`]. The outermost one: what is under way is dropped when
/// an answer that nobody reads is ended.
#[derive(Debug, Clone, Copy)]
pub struct Track;

impl<S> tower::Layer<S> for Track {
    type Service = Tracked<S>;

    fn layer(&self, inner: S) -> Tracked<S> {
        Tracked(inner)
    }
}

/// A service whose requests are tracked.
#[derive(Debug, Clone)]
pub struct Tracked<S>(S);

impl<S> tower::Service<Request<Body>> for Tracked<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let guard = request.extensions().get::<ConnectInfo>().map(ConnectInfo::begin);
        let answer = self.0.call(request);
        Box::pin(async move {
            Ok(answer.await?.map(|body| match guard {
                Some(guard) => Body::new(Sending::new(body, guard)),
                None => body,
            }))
        })
    }
}

/// An answer's body that keeps `guard` until it has been sent, or nobody waits for it any more.
pub fn hold<G: Send + Unpin + 'static>(body: Body, guard: G) -> Body {
    Body::new(Held { inner: body, guard: Some(guard) })
}

struct Held<G> {
    inner: Body,
    guard: Option<G>,
}

impl<G: Unpin> http_body::Body for Held<G> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if frame.is_none() {
            self.guard = None;
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
