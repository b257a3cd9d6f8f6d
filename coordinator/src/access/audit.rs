//! The audit log: who did what to which collection, and how it ended; never what was in it.
//!
//! Events of the tracing target `audit`: changes, and whatever was refused to its caller, at `info`; other reads at `debug`.
//! Of what fails, which costs its caller little, a bounded number of lines. Written only where callers have to say who they are.

use std::net::SocketAddr;

use omma_common::error::{ApiError, Reason};
use omma_common::ids::shown_collection_name;
use omma_common::log_limit::{Line, LogLimit};
use omma_common::serve::ConnectInfo;
use tonic::codegen::http::Request;

use super::caller::Caller;

/// Calls that change nothing, and of which there are many.
const READS: &[&str] = &[
    "GetCollection",
    "ListCollections",
    "GetImage",
    "BatchGetImages",
    "Search",
    "BatchSearch",
    "GetClusterStatus",
    "ListMoves",
];

/// One call, or one stream.
pub(crate) struct Deed<'a> {
    pub(crate) caller: &'a Caller,
    pub(crate) address: Option<SocketAddr>,
    pub(crate) rpc: &'a str,
    /// Empty if it is about none.
    pub(crate) collection: &'a str,
    /// `OK`, or the reason of the error.
    pub(crate) outcome: &'a str,
}

/// Refusals that are of interest whatever was asked for.
const LOUD: [Reason; 3] = [Reason::Unauthenticated, Reason::PermissionDenied, Reason::RateLimited];

/// Lines about calls that ended so, each kind for itself: none must drown out the others. `None`: it ended well.
fn failures(outcome: &str) -> Option<&'static LogLimit> {
    static KINDS: [LogLimit; Reason::ALL.len()] = [const { LogLimit::new() }; Reason::ALL.len()];
    Reason::ALL.iter().zip(&KINDS).find(|(reason, _)| reason.name() == outcome).map(|(_, limit)| limit)
}

/// Writes one line, or counts it among those that were left out.
pub(crate) fn audit(deed: &Deed<'_>) {
    let Some(who) = &deed.caller.name else { return };
    let Deed { rpc, outcome, .. } = deed;
    let collection = shown_collection_name(deed.collection);
    let address = deed.address.map(|a| a.to_string()).unwrap_or_default();
    let loud = LOUD.iter().any(|reason| reason.name() == *outcome);
    if !loud && READS.contains(rpc) {
        tracing::debug!(target: "audit", who, address, rpc, collection, outcome);
    } else if let Some(Line { skipped }) = failures(outcome).map_or(Some(Line::default()), LogLimit::line) {
        tracing::info!(target: "audit", who, address, rpc, collection, outcome, skipped);
    }
}

/// As [`audit`], of a call that was refused before its message was read.
pub(super) fn audit_refused<B>(request: &Request<B>, caller: &Caller, error: &ApiError) {
    audit(&Deed {
        caller,
        address: request.extensions().get::<ConnectInfo>().map(|info| info.address),
        rpc: request.uri().path().rsplit('/').next().unwrap_or_default(),
        collection: "",
        outcome: error.reason.name(),
    });
}
