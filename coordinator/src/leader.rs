//! Calls that only a group's leader can serve: follow a hint once, then refresh the map and back off, until the
//! deadline.

use std::sync::Arc;

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::{GroupId, NodeId};
use omma_common::retry::Backoff;
use tonic::Code;

use crate::error::{CallError, Next, gave_up, retired};
use crate::node_client::NodeClient;
use crate::routing::leaders::candidate;
use crate::routing::{ClusterMap, Routing};

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing: it may be repeated at will.
    Read,
    /// Something: repeated only because it carries a request id, and if it ends without an answer, that is said.
    Write,
}

/// What the tries so far have shown.
#[derive(Debug, Default)]
struct Tries {
    /// Nodes that need not be asked again in this round.
    failed: Vec<NodeId>,
    /// Whether a hint was followed since the last wait.
    followed: bool,
    /// Whether a try may have taken effect.
    maybe_done: bool,
    last: Option<CallError>,
}

/// What to do after a failed try.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Try again at once: a hint was taken.
    Now,
    /// Refresh, wait, try again.
    Later,
    /// Tell the caller.
    End,
}

impl Tries {
    /// Notes how the try at `node` failed and decides. `routing` is told what it means for the leader.
    fn failed(&mut self, node: NodeId, error: CallError, routing: &Routing, group: GroupId) -> Step {
        let step = match &error.next {
            Next::Stop | Next::Moved => Step::End,
            Next::Leader(Some(leader)) if leader.node_id != node && !self.followed => {
                self.followed = true;
                self.failed.retain(|id| *id != leader.node_id);
                routing.pointed(group, leader);
                Step::Now
            }
            Next::Leader(_) | Next::Elsewhere | Next::Unknown => {
                routing.doubt(group, node);
                Step::Later
            }
        };
        self.maybe_done |= error.next == Next::Unknown;
        self.failed.push(node);
        self.last = Some(error);
        step
    }

    /// A new round: everybody may be asked again, but the node that failed last only if nobody else is left.
    fn again(&mut self) {
        self.followed = false;
        let last = self.failed.pop();
        self.failed.clear();
        self.failed.extend(last);
    }

    fn outcome(self, group: GroupId, effect: Effect) -> ApiError {
        let maybe_written = self.maybe_done && effect == Effect::Write;
        match self.last {
            Some(CallError { next: Next::Moved, error }) if maybe_written => {
                gave_up(group, Some(CallError { next: Next::Moved, error }), true).with(MOVED, true)
            }
            Some(CallError { next: Next::Moved, error }) => error,
            Some(CallError { next: Next::Stop, error }) if !(maybe_written && is_of_the_moment(&error)) => error,
            last => gave_up(group, last, maybe_written),
        }
    }
}

/// Whether another time might bring another answer. Such a refusal of a later try says nothing of an earlier one, which
/// may have taken effect; a request that is wrong in itself was so from the first try on.
fn is_of_the_moment(error: &ApiError) -> bool {
    !matches!(error.reason.code(), Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound)
}

/// In the metadata of an error: the last try was refused because slots have moved, an earlier one may have had an effect.
const MOVED: &str = "slots_moved";

/// Whether a call failed because slots have moved, so that it is to be made again by a newer map.
pub(crate) fn slots_moved(error: &ApiError) -> bool {
    error.reason == Reason::SlotsMoved || error.metadata.iter().any(|(key, _)| *key == MOVED)
}

/// An error of a later try, after one whose outcome is unknown.
pub(crate) fn unsure(error: ApiError) -> ApiError {
    match is_of_the_moment(&error) {
        true => ApiError { reason: Reason::OutcomeUnknown, ..error },
        false => error,
    }
}

/// Calls the leader of `group` with `call(node, map)` until it answers, refuses for good, says that slots have moved, or
/// `deadline` is near.
///
/// A try whose outcome is unknown is repeated: give writes a request id, the same for each try.
pub(crate) async fn call_leader<T, F, Fut>(
    routing: &Routing,
    group: GroupId,
    effect: Effect,
    deadline: Deadline,
    call: F,
) -> Result<T, ApiError>
where
    F: Fn(Arc<NodeClient>, &ClusterMap) -> Fut,
    Fut: Future<Output = Result<T, CallError>>,
{
    let mut tries = Tries::default();
    let mut backoff = Backoff::in_cluster();
    loop {
        let map = routing.map().await?;
        if !map.has(group) {
            tries.last = Some(retired(group).into());
            return Err(tries.outcome(group, effect));
        }
        let leader = routing.leader(group);
        let known = leader.as_ref().and_then(|l| l.node_id);
        let step = match candidate(known, map.replicas(group), &tries.failed) {
            None => Step::Later,
            Some(node) => {
                let term = leader.as_ref().map_or(0, |l| l.term);
                let hinted = leader.filter(|l| l.node_id == Some(node)).and_then(|l| l.address);
                match attempt(routing, &map, group, (node, term), hinted, &call).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => tries.failed(node, error, routing, group),
                }
            }
        };
        match step {
            Step::Now => {}
            Step::End => return Err(tries.outcome(group, effect)),
            Step::Later => {
                let pause = async {
                    routing.refresh().await;
                    backoff.sleep(deadline).await
                };
                if !deadline.run("finding the leader", pause).await.unwrap_or(false) {
                    return Err(tries.outcome(group, effect));
                }
                tries.again();
                if candidate(None, map.replicas(group), &tries.failed).is_none() {
                    tries.failed.clear();
                }
            }
        }
    }
}

/// One try at `node`; given up when another node is elected meanwhile, so that a leader that fell silent costs no
/// more than an election.
async fn attempt<T, F, Fut>(
    routing: &Routing,
    map: &ClusterMap,
    group: GroupId,
    (node, term): (NodeId, u64),
    hinted: Option<String>,
    call: &F,
) -> Result<T, CallError>
where
    F: Fn(Arc<NodeClient>, &ClusterMap) -> Fut,
    Fut: Future<Output = Result<T, CallError>>,
{
    let address = map.address(node).map(str::to_owned).or(hinted);
    let Some(address) = address else {
        let error = ApiError::new(Reason::NodeUnreachable, format!("the address of node {node} is not known"));
        return Err(CallError { next: Next::Elsewhere, error });
    };
    let client = routing.client(&address)?;
    tokio::select! {
        biased;
        answer = call(client, map) => answer,
        () = routing.leader_moved(group, node, term) => {
            let text = format!("node {node} did not answer before another leader was elected");
            Err(CallError { next: Next::Unknown, error: ApiError::new(Reason::OutcomeUnknown, text) })
        }
    }
}

#[cfg(test)]
mod tests {
    use omma_common::tls::Dialer;

    use super::*;
    use crate::error::LeaderAddress;
    use crate::node_client::Nodes;

    fn routing() -> Routing {
        Routing::new(vec![], Nodes::new(1, Dialer::default(), None))
    }

    fn error(next: Next, reason: Reason) -> CallError {
        CallError { next, error: ApiError::new(reason, "x") }
    }

    fn hint(node_id: NodeId) -> CallError {
        error(Next::Leader(Some(LeaderAddress { node_id, address: "n:1".into() })), Reason::NotLeader)
    }

    #[tokio::test]
    async fn one_hint_is_followed_at_once_the_second_waits() {
        let routing = routing();
        let mut tries = Tries::default();
        assert_eq!(tries.failed(1, hint(2), &routing, 1), Step::Now);
        assert_eq!(routing.leader(1).unwrap().node_id, Some(2));
        assert_eq!(tries.failed(2, hint(1), &routing, 1), Step::Later);
        assert_eq!(routing.leader(1).unwrap().node_id, None);
        tries.again();
        assert_eq!(tries.failed, [2]);
        assert_eq!(tries.failed(1, hint(2), &routing, 1), Step::Now);
        assert_eq!(tries.failed, [1], "who is pointed to may be asked again");
    }

    #[tokio::test]
    async fn a_node_that_points_to_itself_is_not_followed() {
        let routing = routing();
        assert_eq!(Tries::default().failed(1, hint(1), &routing, 1), Step::Later);
    }

    #[tokio::test]
    async fn an_unknown_outcome_is_not_forgotten() {
        let routing = routing();
        let mut tries = Tries::default();
        assert_eq!(tries.failed(1, error(Next::Unknown, Reason::NodeUnreachable), &routing, 1), Step::Later);
        assert_eq!(tries.failed(2, error(Next::Elsewhere, Reason::UnknownGroup), &routing, 1), Step::Later);
        assert_eq!(tries.outcome(1, Effect::Write).reason, Reason::OutcomeUnknown);

        let mut tries = Tries::default();
        tries.failed(1, error(Next::Unknown, Reason::NodeUnreachable), &routing, 1);
        assert_eq!(tries.outcome(1, Effect::Read).reason, Reason::GroupUnavailable);

        let mut tries = Tries::default();
        tries.failed(1, error(Next::Unknown, Reason::NodeUnreachable), &routing, 1);
        assert_eq!(tries.failed(2, error(Next::Stop, Reason::InvalidPicture), &routing, 1), Step::End);
        assert_eq!(tries.outcome(1, Effect::Write).reason, Reason::InvalidPicture);

        let mut tries = Tries::default();
        assert_eq!(tries.failed(1, error(Next::Moved, Reason::SlotsMoved), &routing, 1), Step::End);
        assert_eq!(tries.outcome(1, Effect::Write).reason, Reason::SlotsMoved);
        let mut tries = Tries::default();
        tries.failed(1, error(Next::Unknown, Reason::NodeUnreachable), &routing, 1);
        tries.failed(2, error(Next::Moved, Reason::SlotsMoved), &routing, 1);
        let told = tries.outcome(1, Effect::Write);
        assert!(told.reason == Reason::OutcomeUnknown && slots_moved(&told));

        for busy in [Reason::Overloaded, Reason::IndexBehind, Reason::DeadlineExceeded, Reason::Internal] {
            for (effect, told) in [(Effect::Write, Reason::OutcomeUnknown), (Effect::Read, busy)] {
                let mut tries = Tries::default();
                tries.failed(1, error(Next::Unknown, Reason::NodeUnreachable), &routing, 1);
                assert_eq!(tries.failed(2, error(Next::Stop, busy), &routing, 1), Step::End);
                assert_eq!(tries.outcome(1, effect).reason, told, "{busy:?}");
            }
        }
    }
}
