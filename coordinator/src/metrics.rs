//! What a coordinator counts as it happens.

omma_common::metrics! {
    /// By queue: requests, calls; messages and answers without memory; what one client may have at once or in a second.
    REFUSED: Counters = Counters::of(
        "omma_coordinator_refused_total",
        "Requests refused because too many were served, too little memory was left for them, or their client has or sends too many; calls \
         because too many to one node were under way.",
        "queue",
        &["requests", "calls", "arriving", "client_requests", "client_rate"],
    );
    /// One of them.
    REFUSED_CLIENT_REQUESTS: Counter = REFUSED.with(&["client_requests"]);
    /// Another.
    REFUSED_CLIENT_RATE: Counter = REFUSED.with(&["client_rate"]);
    /// Second calls to another replica because the first was slow.
    HEDGES: Counter =
        Counter::new("omma_hedged_calls_total", "Calls to a second replica because the first one was slow.");
    /// Answers that lack groups.
    PARTIAL: Counter =
        Counter::new("omma_partial_searches_total", "Searches that some shard groups did not answer in time.");
    /// By stage: encode, fan_out, merge.
    STAGE_SECONDS: Histograms = Histograms::new(
        "omma_search_stage_seconds",
        "Parts of a search: encode (the picture), fan_out (all groups), merge (their answers).",
        &["stage"],
        SECONDS,
    );
    /// One of them.
    ENCODE_SECONDS: Histogram = STAGE_SECONDS.with(&["encode"]);
    /// Another.
    FAN_OUT_SECONDS: Histogram = STAGE_SECONDS.with(&["fan_out"]);
    /// The last.
    MERGE_SECONDS: Histogram = STAGE_SECONDS.with(&["merge"]);
}
