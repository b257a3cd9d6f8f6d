//! What both servers do around each call: count it, time it, trace it. As a tower layer.

mod body;
mod call;
mod layer;

pub use layer::{RpcLayer, Traces};

crate::metrics! {
    REQUESTS: Counters =
        Counters::new("omma_rpc_requests_total", "Calls that ended, streams among them, by gRPC code.", &["rpc", "code"]);
    ERRORS: Counters =
        Counters::new("omma_rpc_errors_total", "Calls that failed, by Omma's reason; NONE if it has none.", &["rpc", "reason"]);
    IN_FLIGHT: Gauges = Gauges::new("omma_rpc_in_flight", "Calls under way, streams among them.", &["rpc"]);
    DURATION: Histograms = Histograms::new(
        "omma_rpc_duration_seconds",
        "From a call's arrival to the end of its answer.",
        &["rpc"],
        SECONDS,
    );
}
