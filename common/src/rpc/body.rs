//! An answer's body that ends its call.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tonic::Status;

use super::call::Call;

/// Passes a body through and tells its call how it ended.
pub(super) struct Counted<B> {
    inner: B,
    call: Call,
}

impl<B> Counted<B> {
    pub(super) fn new(inner: B, call: Call) -> Self {
        Self { inner, call }
    }
}

impl<B> Body for Counted<B>
where
    B: Body<Data = Bytes, Error = Status> + Unpin,
{
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = {
            let _in_span = this.call.span.enter();
            Pin::new(&mut this.inner).poll_frame(context)
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    this.call.end_with(trailers);
                }
            }
            Poll::Ready(Some(Err(status))) => this.call.end(Some(status)),
            Poll::Ready(None) => this.call.end(None),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
