//! Answers on their way out of one connection. The transport asks an answer for more only when its client has taken what
//! came before: one that is not asked cannot end itself, so its connection ends it.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::{Body as _, Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;

use super::activity::{Activity, InFlight};
use crate::error::{ApiError, Reason};

/// Bytes that are handed out at once: a slow client is seen to move, and what is not handed out yet can be taken back.
const PIECE: usize = 64 << 10;

/// The answers of one connection that were not sent yet.
#[derive(Default)]
pub(super) struct Unsent(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    all: HashMap<u64, Arc<Mutex<Answer>>>,
}

impl fmt::Debug for Unsent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsent").finish_non_exhaustive()
    }
}

struct Answer {
    inner: Body,
    /// What was not handed out yet of what came last.
    rest: Bytes,
    in_flight: Option<InFlight>,
    /// Since when the client could take what was handed out; `None` while the server has yet to say something.
    since: Option<Instant>,
    /// That is how long it was not taken, and so it was ended.
    ended: Option<Duration>,
}

impl Answer {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(patience) = self.ended {
            // An error would reset the stream: trailers say why.
            return Poll::Ready(Some(Ok(Frame::trailers(not_read(patience)))));
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.rest = bytes,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                end => {
                    self.in_flight = None;
                    return Poll::Ready(end);
                }
            }
        }
        let length = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(length)))))
    }

    /// Notes whose turn it is: the client's, if something was handed out.
    fn note(&mut self, handed_out: bool) {
        self.since = handed_out.then(Instant::now);
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.waits_for_client(handed_out);
        }
    }
}

/// What the client is told if it reads on after all.
fn not_read(patience: Duration) -> HeaderMap {
    let text = format!("the answer was not read for {patience:?}");
    let error = ApiError::new(Reason::DeadlineExceeded, text).over("idle-stream-seconds", patience.as_secs());
    let mut trailers = error.to_status().into_http::<()>().into_parts().0.headers;
    trailers.remove(CONTENT_TYPE);
    trailers
}

impl Unsent {
    /// Ends the answers of which the client took nothing for `patience`: what they hold is given back.
    pub(super) fn end(&self, patience: Duration) {
        let mut ended = Vec::new();
        for answer in self.0.lock().all.values() {
            // One that is asked right now moves.
            let Some(mut answer) = answer.try_lock() else { continue };
            if answer.since.is_some_and(|since| since.elapsed() >= patience) {
                answer.since = None;
                answer.ended = Some(patience);
                let body = std::mem::replace(&mut answer.inner, Body::empty());
                ended.push((body, std::mem::take(&mut answer.rest), answer.in_flight.take()));
            }
        }
    }
}

/// An answer's body that its connection knows until it has been sent, or nobody waits for it any more.
pub(super) struct Sending {
    answer: Arc<Mutex<Answer>>,
    activity: Arc<Activity>,
    id: u64,
}

impl Sending {
    pub(super) fn new(inner: Body, in_flight: InFlight) -> Self {
        let activity = in_flight.activity().clone();
        let mut answer = Answer { inner, rest: Bytes::new(), in_flight: Some(in_flight), since: None, ended: None };
        answer.note(true);
        let answer = Arc::new(Mutex::new(answer));
        let id = {
            let mut table = activity.unsent.0.lock();
            table.next += 1;
            let id = table.next;
            table.all.insert(id, answer.clone());
            id
        };
        Self { answer, activity, id }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        self.activity.unsent.0.lock().all.remove(&self.id);
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut answer = self.answer.lock();
        let polled = answer.poll(cx);
        answer.note(polled.is_ready());
        polled
    }

    fn is_end_stream(&self) -> bool {
        let answer = self.answer.lock();
        answer.ended.is_none() && answer.rest.is_empty() && answer.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // It may end sooner.
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    const LONG: Duration = Duration::from_millis(100);

    fn sending(activity: &Arc<Activity>, body: Body) -> Body {
        Body::new(Sending::new(body, activity.begin()))
    }

    #[tokio::test]
    async fn an_answer_that_is_not_read_is_ended_and_says_so() {
        let activity = Activity::new();
        let mut unread = sending(&activity, Body::new("u".repeat(PIECE * 3)));
        assert!(unread.frame().await.unwrap().unwrap().data_ref().is_some_and(|piece| piece.len() == PIECE));
        tokio::time::sleep(LONG).await;
        let mut read = sending(&activity, Body::new("r".repeat(PIECE)));
        assert!(read.frame().await.unwrap().unwrap().is_data());
        activity.unsent.end(LONG);
        let trailers = unread.frame().await.unwrap().unwrap().into_trailers().unwrap();
        assert_eq!(trailers.get("grpc-status").unwrap(), "4");
        assert!(read.frame().await.is_none(), "it moves");
        assert!(activity.idle().is_some(), "both are over");
        drop((read, unread));
        assert!(activity.unsent.0.lock().all.is_empty());
    }

    /// A stream that has nothing to say is none that is not read.
    #[tokio::test]
    async fn what_the_server_has_not_said_is_waited_for() {
        let activity = Activity::new();
        let silent = tokio_stream::pending::<Result<Frame<Bytes>, Status>>();
        let mut body = sending(&activity, Body::new(StreamBody::new(silent)));
        assert!(futures::poll!(Box::pin(body.frame())).is_pending());
        tokio::time::sleep(LONG).await;
        activity.unsent.end(LONG);
        assert!(futures::poll!(Box::pin(body.frame())).is_pending());
        assert_eq!(activity.idle_if(LONG), None, "it is busy");
    }

    /// It need not be asked even once: the client may leave no window at all.
    #[tokio::test]
    async fn a_connection_whose_answers_do_not_move_is_not_busy() {
        let activity = Activity::new();
        let _unread = sending(&activity, Body::new("u".to_owned()));
        tokio::time::sleep(LONG).await;
        assert_eq!(activity.idle_if(2 * LONG), None);
        assert!(activity.idle_if(LONG).is_some_and(|idle| idle >= LONG));
        let running = activity.begin();
        assert_eq!(activity.idle_if(LONG), None, "another request runs");
        drop(running);
        activity.unsent.end(LONG);
        assert!(activity.idle().is_some());
    }
}
