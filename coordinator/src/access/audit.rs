//! The audit log: who did what to which collection, and how it ended; never what was in it.
//!
//! Events of the tracing target `audit`: changes and refusals at `info`, reads at `debug`. Written only where callers
//! have to say who they are.

use std::net::SocketAddr;

use omma_common::error::Reason;
use omma_common::ids::shown_collection_name;

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
    /// Lines about strangers that were left out before this one.
    pub(crate) skipped: u64,
}

/// Writes one line.
pub(crate) fn audit(deed: &Deed<'_>) {
    let Some(who) = &deed.caller.name else { return };
    let Deed { rpc, outcome, .. } = deed;
    let collection = shown_collection_name(deed.collection);
    // Denials are of interest whatever was asked for.
    let denied = [Reason::PermissionDenied, Reason::Unauthenticated, Reason::RateLimited].map(Reason::name);
    let skipped = (deed.skipped > 0).then_some(deed.skipped);
    let address = deed.address.map(|a| a.to_string()).unwrap_or_default();
    if READS.iter().all(|read| read != rpc) || denied.contains(outcome) {
        tracing::info!(target: "audit", who, address, rpc, collection, outcome, skipped);
    } else {
        tracing::debug!(target: "audit", who, address, rpc, collection, outcome, skipped);
    }
}
