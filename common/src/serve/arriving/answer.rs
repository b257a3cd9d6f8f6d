//! An answer's body that keeps its part of the memory until it is sent. It is handed out in pieces: the transport takes the
//! next piece while the one before waits to be sent, and would take a whole answer as readily.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::AnswerPart;

/// Bytes of a piece.
const PIECE: usize = 64 << 10;

pub(super) struct Answer {
    inner: Body,
    /// What was not handed out yet of what came last.
    rest: Bytes,
    part: Option<AnswerPart>,
}

impl Answer {
    pub(super) fn new(inner: Body, part: AnswerPart) -> Self {
        Self { inner, rest: Bytes::new(), part: Some(part) }
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.rest = bytes,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => {
                    self.part = None;
                    return Poll::Ready(end);
                }
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
