//! A request that is tried until it is answered, with what is known of its effect if it never is.

use std::time::Duration;

use omma_common::error::{Reason, reason_of};
use omma_proto::RpcStatus;
use omma_proto::v1::PutImagesResponse;
use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Request, Response, Status};
use tonic_types::RpcStatusExt;

use crate::client::{Client, may_help};

/// For one try, also as its gRPC deadline.
const TRY: Duration = Duration::from_millis(1500);
/// For all tries of one request.
const PATIENCE: Duration = Duration::from_secs(4);

/// How a request ended.
#[derive(Debug)]
pub(super) enum Tried<T> {
    Answered(T),
    /// Each try was refused with the promise that it had no effect.
    Refused,
    /// Some try may have had an effect, or may have one yet.
    Unknown,
    /// It was refused in a way that nothing in a storm explains.
    Strange(Status),
}

/// Whether `reason` promises that a write had no effect.
fn had_no_effect(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotLeader
            | Reason::UnknownGroup
            | Reason::SlotsMoved
            | Reason::GroupUnavailable
            | Reason::PartialAnswer
            | Reason::ClusterForming
            | Reason::ShuttingDown
            | Reason::Overloaded
            | Reason::IndexBehind
            | Reason::DiskFull
    )
}

/// Tries `call`, at one coordinator after the other, until it is answered or patience is over.
pub(super) async fn tried<T, F, W>(clients: &[Client], rng: &mut StdRng, call: F) -> Tried<T>
where
    F: Fn(Client) -> W,
    W: Future<Output = Result<T, Status>>,
{
    let begin = Instant::now();
    let mut unknown = false;
    loop {
        let client = clients[rng.random_range(0..clients.len())].clone();
        // The gRPC deadline comes first; this is for a coordinator that does not keep it.
        let answer = timeout(2 * TRY, call(client)).await;
        let status = match answer {
            Ok(Ok(answer)) => return Tried::Answered(answer),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("the test's own patience is over"),
        };
        unknown |= !reason_of(&status).is_some_and(had_no_effect);
        if !may_help(status.code()) && status.code() != tonic::Code::Unknown {
            return Tried::Strange(status);
        }
        if begin.elapsed() > PATIENCE {
            return if unknown { Tried::Unknown } else { Tried::Refused };
        }
        sleep(Duration::from_millis(rng.random_range(10..80))).await;
    }
}

/// A message with the deadline of a try.
pub(super) fn request<M>(message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.set_timeout(TRY);
    request
}

/// The answer to a put of one image, whose own refusal becomes the call's.
pub(super) fn of_one(answer: Response<PutImagesResponse>) -> Result<PutImagesResponse, Status> {
    let answer = answer.into_inner();
    match answer.results.first().and_then(|r| r.error.as_ref()).filter(|e| e.code != 0) {
        None => Ok(answer),
        Some(error) => Err(status_of(error)),
    }
}

fn status_of(error: &RpcStatus) -> Status {
    use tonic_types::StatusExt;
    Status::with_error_details(tonic::Code::from(error.code), &error.message, error.get_error_details())
}
