//! Calls that any replica of a group can serve: to the best one, to a second one when it is slow, to the next at once
//! when it fails.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::GroupId;
use omma_common::retry::Backoff;
use rand::seq::SliceRandom;
use tokio::time::Instant;

use super::hedge::HedgeDelay;
use super::patience::Patience;
use crate::error::{CallError, Next, retired};
use crate::metrics::HEDGES;
use crate::node_client::NodeClient;
use crate::routing::{ClusterMap, Routing};

/// The order to ask nodes in: those that answer, the least busy first; ties fall at random, so that coordinators do
/// not all choose alike.
pub(crate) fn by_preference(mut nodes: Vec<Arc<NodeClient>>) -> Vec<Arc<NodeClient>> {
    nodes.shuffle(&mut rand::rng());
    nodes.sort_by_cached_key(|node| (node.shunned(), node.in_flight()));
    nodes
}

/// Calls a replica of `group` with `call(node, map)`; all of them again while none can answer and `patience` lasts. `call`
/// must be a read: it may run more than once.
pub(crate) async fn call_replica<T, F, Fut>(
    routing: &Routing,
    group: GroupId,
    mut patience: Patience,
    hedge: &HedgeDelay,
    call: F,
) -> Result<T, ApiError>
where
    F: Fn(Arc<NodeClient>, &ClusterMap) -> Fut,
    Fut: Future<Output = Result<T, CallError>>,
{
    let deadline = patience.deadline();
    let mut backoff = Backoff::in_cluster();
    let last = loop {
        let map = routing.map().await?;
        if !map.has(group) {
            return Err(retired(group));
        }
        let nodes = by_preference(routing.replicas(&map, group));
        let last = match race(nodes, deadline, hedge, |node| call(node, &map)).await {
            Ok(answer) => return Ok(answer),
            // Each replica says so: it is the map that is old.
            Err(Some(CallError { next: Next::Stop | Next::Moved, error })) => return Err(error),
            Err(error) => error,
        };
        let backoff = &mut backoff;
        let pause = move |until| async move {
            routing.refresh().await;
            backoff.sleep(until).await
        };
        if !patience.after_failure(pause).await {
            break last;
        }
    };
    let why = last.map_or_else(|| "no replica is known".to_owned(), |e| e.error.message);
    let text = format!("no replica of shard group {group} could answer: {why}");
    Err(ApiError::new(Reason::GroupUnavailable, text).with("group_id", group))
}

/// Whether a refusal speaks of the one replica rather than of the request: another may do better.
fn is_replicas_own(reason: Reason) -> bool {
    matches!(reason, Reason::Overloaded | Reason::DataLoss | Reason::Internal)
}

/// Which of two failures tells more: that slots have moved, which a newer map mends at once, whoever else is gone.
fn told(earlier: Option<CallError>, later: CallError) -> CallError {
    earlier.filter(|error| error.next == Next::Moved).unwrap_or(later)
}

/// Asks `nodes` in order: the second as well when the first takes long, the next whenever one fails.
/// `Err(None)`: there was nobody to ask.
async fn race<T, N, F, Fut>(
    nodes: Vec<N>,
    deadline: Deadline,
    hedge: &HedgeDelay,
    call: F,
) -> Result<T, Option<CallError>>
where
    F: Fn(N) -> Fut,
    Fut: Future<Output = Result<T, CallError>>,
{
    let timed = |node| {
        let (begun, answer) = (Instant::now(), call(node));
        async move { (begun, answer.await) }
    };
    let mut rest = nodes.into_iter();
    let mut asked: FuturesUnordered<_> = rest.next().map(&timed).into_iter().collect();
    let delay = tokio::time::sleep_until(deadline.within(hedge.now()).instant());
    tokio::pin!(delay);
    let mut hedged = false;
    let mut last = None;
    loop {
        tokio::select! {
            biased;
            answer = asked.next() => match answer {
                None => return Err(last),
                Some((begun, Ok(answer))) => {
                    hedge.learn(begun.elapsed());
                    return Ok(answer);
                }
                Some((_, Err(error))) if error.next == Next::Stop && !is_replicas_own(error.error.reason) => {
                    return Err(Some(error));
                }
                Some((_, Err(error))) => {
                    last = Some(told(last, error));
                    asked.extend(rest.next().map(&timed));
                }
            },
            () = &mut delay, if !hedged => {
                hedged = true;
                if let Some(second) = rest.next() {
                    HEDGES.inc();
                    asked.push(timed(second));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const FOR_EVER: Duration = Duration::from_secs(3600);

    fn failed(next: Next) -> CallError {
        let reason = if next == Next::Stop { Reason::InvalidArgument } else { Reason::NodeUnreachable };
        CallError { next, error: ApiError::new(reason, "x") }
    }

    #[tokio::test]
    async fn a_damaged_or_busy_replica_is_passed_over() {
        let call = |answer: Result<u32, Reason>| async move { answer.map_err(|r| ApiError::new(r, "x").into()) };
        let (deadline, hedge) = (Deadline::after(Duration::from_secs(10)), HedgeDelay::default());
        let nodes = vec![Err(Reason::DataLoss), Err(Reason::Overloaded), Ok(3)];
        assert_eq!(race(nodes, deadline, &hedge, call).await.unwrap(), 3);
        let error = race(vec![Err(Reason::DataLoss)], deadline, &hedge, call).await.unwrap_err().unwrap();
        assert_eq!(error.error.reason, Reason::DataLoss);
    }

    /// Each node: how long it takes and what it answers.
    async fn raced(nodes: Vec<(Duration, Result<u32, Next>)>) -> (Result<u32, Option<Next>>, Duration) {
        let begun = Instant::now();
        let hedge = HedgeDelay::default();
        let call = |(wait, answer): (Duration, Result<u32, Next>)| async move {
            tokio::time::sleep(wait).await;
            answer.map_err(failed)
        };
        let got = race(nodes, Deadline::after(Duration::from_secs(10)), &hedge, call).await;
        (got.map_err(|e| e.map(|e| e.next)), begun.elapsed())
    }

    #[tokio::test]
    async fn a_slow_replica_is_hedged_once() {
        let (got, took) =
            raced(vec![(FOR_EVER, Ok(1)), (Duration::from_millis(5), Ok(2)), (Duration::ZERO, Ok(3))]).await;
        assert_eq!(got, Ok(2));
        assert!(took >= Duration::from_millis(50), "{took:?}");
    }

    #[tokio::test]
    async fn the_next_is_asked_at_once_when_one_fails() {
        let nodes =
            vec![(Duration::ZERO, Err(Next::Elsewhere)), (Duration::ZERO, Err(Next::Unknown)), (Duration::ZERO, Ok(3))];
        let (got, took) = raced(nodes).await;
        assert_eq!(got, Ok(3));
        assert!(took < Duration::from_millis(50), "before the delay of a hedge: {took:?}");
    }

    #[tokio::test]
    async fn that_slots_have_moved_is_told_whoever_else_is_gone() {
        for nodes in [[Next::Moved, Next::Unknown], [Next::Elsewhere, Next::Moved]] {
            let nodes = nodes.map(|next| (Duration::ZERO, Err(next))).to_vec();
            assert_eq!(raced(nodes).await.0, Err(Some(Next::Moved)));
        }
        let nodes = vec![(Duration::ZERO, Err(Next::Moved)), (Duration::ZERO, Ok(2))];
        assert_eq!(raced(nodes).await.0, Ok(2), "one that lags is passed over");
    }

    #[tokio::test]
    async fn refusals_and_empty_rounds_end_it() {
        let nodes = vec![(Duration::ZERO, Err(Next::Stop)), (Duration::ZERO, Ok(2))];
        assert_eq!(raced(nodes).await.0, Err(Some(Next::Stop)));
        assert_eq!(raced(vec![]).await.0, Err(None));
        let nodes = vec![(Duration::ZERO, Err(Next::Unknown)), (Duration::ZERO, Err(Next::Elsewhere))];
        assert_eq!(raced(nodes).await.0, Err(Some(Next::Elsewhere)));
    }
}
