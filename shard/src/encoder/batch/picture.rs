//! A picture on its way through the pools, and who waits for it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::deadline::Deadline;
use omma_common::telemetry::TracePoint;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Encoded;
use crate::encoder::error::EncoderError;
use crate::encoder::lines::Line;

/// The caller's side of a picture.
pub(super) struct Ticket {
    pub(super) line: Line,
    pub(super) answer: oneshot::Sender<Result<Encoded, EncoderError>>,
    pub(super) deadline: Deadline,
    pub(super) trace: TracePoint,
    pub(super) _slot: OwnedSemaphorePermit,
}

pub(super) struct Undecoded {
    pub(super) picture: Bytes,
    pub(super) ticket: Ticket,
    pub(super) since: Instant,
    pub(super) _bytes: OwnedSemaphorePermit,
}

pub(super) struct Decoded {
    pub(super) numbers: Vec<f32>,
    pub(super) ticket: Ticket,
    pub(super) since: Instant,
    pub(super) decode: Duration,
    pub(super) queue: Duration,
}

impl Ticket {
    pub(super) fn answer(self, result: Result<Encoded, EncoderError>) {
        // The caller may have gone: then nobody wants to know.
        let _ = self.answer.send(result);
    }

    /// The ticket if somebody still waits for it; else it is dropped, with an answer if only the time is over.
    pub(super) fn wanted(self) -> Option<Self> {
        if self.answer.is_closed() {
            None
        } else if self.deadline.passed() {
            self.answer(Err(EncoderError::DeadlineExceeded));
            None
        } else {
            Some(self)
        }
    }
}
