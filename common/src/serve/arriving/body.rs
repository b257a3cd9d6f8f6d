//! A request's body, whose messages are weighed and counted as they come.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

use super::shapes::ShapeId;
use super::weigh::Weigh;
use super::{Arriving, MessageParts, refusal};

/// Bytes of the head of each message: whether it is compressed, and its length.
const HEAD: usize = 5;

/// Where in its messages a body is.
#[derive(Debug)]
enum At {
    /// So much of a message's head is there.
    Head(Vec<u8>),
    /// So many bytes of it are missing.
    Message(u64),
}

pub(super) struct Counting {
    inner: Body,
    arriving: Arriving,
    client: u64,
    /// What its messages are; `None` if it is none of the protocol's calls.
    message: Option<ShapeId>,
    kept: MessageParts,
    at: At,
    weigh: Option<Weigh>,
    /// What the message that is coming takes so far.
    weight: usize,
    /// Of the message that is coming, once it did not come whole at once.
    pub(super) half: Option<u64>,
    /// Up to where the messages of the bytes that were counted last are whole.
    whole_until: usize,
    /// Ends the call once the messages before it are handed on.
    refusal: Option<Status>,
}

impl Counting {
    pub(super) fn new(
        inner: Body,
        arriving: Arriving,
        client: u64,
        message: Option<ShapeId>,
        kept: MessageParts,
    ) -> Self {
        let at = At::Head(Vec::new());
        Self {
            inner,
            arriving,
            client,
            message,
            kept,
            at,
            weigh: None,
            weight: 0,
            half: None,
            whole_until: 0,
            refusal: None,
        }
    }

    /// Counts what has come. An error ends the call.
    pub(super) fn count(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        let all = bytes.len();
        self.whole_until = 0;
        while !bytes.is_empty() {
            let (before, mut whole) = (self.weight, false);
            while !bytes.is_empty() && !whole {
                let (came, ends) = self.advance(bytes)?;
                (bytes, whole) = (&bytes[came..], ends);
            }
            if self.weight > self.arriving.largest {
                return Err(refusal::too_many_parts(self.arriving.largest).to_status());
            }
            self.hold(self.weight - before, whole)?;
            if whole {
                self.weight = 0;
                self.whole_until = all - bytes.len();
            }
        }
        Ok(())
    }

    /// Goes on by some of `bytes`, no further than to the end of a message; returns how many they were, and whether a
    /// message ends with them.
    fn advance(&mut self, bytes: &[u8]) -> Result<(usize, bool), Status> {
        match &mut self.at {
            At::Head(head) => {
                let came = bytes.len().min(HEAD - head.len());
                head.extend_from_slice(&bytes[..came]);
                self.weight += came;
                let [_, length @ ..] = head.as_slice() else { return Ok((came, false)) };
                let Ok(length) = <[u8; 4]>::try_from(length) else { return Ok((came, false)) };
                let length = u64::from(u32::from_be_bytes(length));
                if let Some(message) = self.message {
                    self.weight += self.arriving.shapes.size(message);
                    self.weigh = Some(Weigh::new(message, length));
                }
                self.at = if length == 0 { At::Head(Vec::new()) } else { At::Message(length) };
                Ok((came, length == 0))
            }
            At::Message(missing) => {
                let came = usize::try_from(*missing).map_or(bytes.len(), |missing| missing.min(bytes.len()));
                *missing -= came as u64;
                let whole = *missing == 0;
                self.weight += came;
                if let Some(weigh) = &mut self.weigh {
                    let parts = weigh.add(&self.arriving.shapes, &bytes[..came]);
                    self.weight = self.weight.saturating_add(parts.map_err(|_| refusal::no_message().to_status())?);
                }
                if whole {
                    self.at = At::Head(Vec::new());
                }
                Ok((came, whole))
            }
        }
    }

    /// Takes `bytes` for the message that is coming, which is `whole` with them.
    fn hold(&mut self, bytes: usize, whole: bool) -> Result<(), Status> {
        let arriving = &self.arriving;
        if arriving.refused.is_none() {
            return Ok(());
        }
        // Of a message that is not known it is not known when it is done with.
        let keeps = self.message.is_some();
        if whole && self.half.is_none() && !keeps {
            return Ok(());
        }
        let client = self.client;
        let half = *self.half.get_or_insert_with(|| arriving.halves.begin(client));
        if !arriving.halves.grow(half, bytes) {
            return Err(arriving.refuse());
        }
        if whole {
            self.half = None;
            if let Some(part) = arriving.halves.end(half).filter(|_| keeps) {
                self.kept.push(part);
            }
        }
        Ok(())
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Some(half) = self.half {
            self.arriving.halves.end(half);
        }
    }
}

impl http_body::Body for Counting {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(refusal) = self.refusal.take() {
            return Poll::Ready(Some(Err(refusal)));
        }
        if self.half.is_some_and(|half| self.arriving.halves.gives_way(half, cx)) {
            return Poll::Ready(Some(Err(self.arriving.refuse())));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(bytes) = frame.data_ref()
        {
            // Bytes are shared: this copies none.
            let bytes = bytes.clone();
            if let Err(refusal) = self.count(&bytes) {
                if self.whole_until == 0 {
                    return Poll::Ready(Some(Err(refusal)));
                }
                self.refusal = Some(refusal);
                return Poll::Ready(Some(Ok(Frame::data(bytes.slice(..self.whole_until)))));
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
