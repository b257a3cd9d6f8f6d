//! What a shard node counts as it happens. What it *is*, [`crate::node`] tells when asked.

omma_common::metrics! {
    /// By queue: encoder, proposals, reads, tail; or disk.
    REFUSED: Counters = Counters::of(
        "omma_shard_refused_total",
        "Requests refused because a queue, or the disk, was full.",
        "queue",
        &["encoder", "proposals", "reads", "tail", "disk"],
    );
    /// Outcome: ok, or why not.
    PICTURES: Counters = Counters::of(
        "omma_encoder_pictures_total",
        "Pictures that left the encoder: ok, picture (it was no good), late, failed.",
        "outcome",
        &["ok", "picture", "late", "failed"],
    );
    /// Those that became embeddings.
    PICTURES_OK: Counter = PICTURES.with(&["ok"]);
    /// Decoding and preprocessing.
    DECODE_SECONDS: Histogram =
        Histogram::new("omma_encoder_decode_seconds", "Decoding and preprocessing of a picture.", SECONDS);
    /// Before decoding and before inference.
    ENCODER_QUEUE_SECONDS: Histogram =
        Histogram::new("omma_encoder_queue_seconds", "A picture's waits before decoding and before inference.", SECONDS);
    /// One run.
    INFERENCE_SECONDS: Histogram =
        Histogram::new("omma_encoder_inference_seconds", "One run of the model, over a whole batch.", SECONDS);
    /// Pictures per run.
    BATCH_PICTURES: Histogram =
        Histogram::new("omma_encoder_batch_pictures", "Pictures of one run of the model.", COUNTS);
    /// The log's flushes.
    FSYNC_SECONDS: Histogram =
        Histogram::new("omma_log_fsync_seconds", "Writing and syncing one batch of the Raft log.", SECONDS);
    /// Entries, of all groups.
    FSYNC_ENTRIES: Histogram =
        Histogram::new("omma_log_fsync_entries", "Log entries, of all groups, that one fsync made durable.", COUNTS);
    /// Until applied.
    PROPOSAL_SECONDS: Histogram =
        Histogram::new("omma_proposal_seconds", "From a proposal to its being applied by the leader.", SECONDS);
    /// Outcome: ok or an error reason.
    PROPOSALS: Counters =
        Counters::of("omma_proposals_total", "Proposals, by outcome: OK, or Omma's reason.", "outcome", &["OK"]);
    /// Those that were applied.
    PROPOSALS_OK: Counter = PROPOSALS.with(&["OK"]);
    /// Applying.
    APPLY_SECONDS: Histogram =
        Histogram::new("omma_apply_seconds", "Applying one chunk of committed entries.", SECONDS);
    /// Entries applied.
    APPLIED_ENTRIES: Counter =
        Counter::new("omma_applied_entries_total", "Committed entries applied, those read again at a start among them.");
    /// At a start, or after a snapshot.
    REPLAYED_IMAGES: Counter = Counter::new(
        "omma_replayed_images_total",
        "Images newer than their graph's checkpoint, read into the tail at a start or after a snapshot.",
    );
    /// The index alone.
    SEARCH_SECONDS: Histogram =
        Histogram::new("omma_search_seconds", "Searching one group for one query, without waits.", SECONDS);
    /// Whole checkpoints.
    CHECKPOINT_SECONDS: Histogram =
        Histogram::new("omma_checkpoint_seconds", "Writing one checkpoint of a graph.", SECONDS);
    /// Graphs built anew.
    REBUILDS: Counter = Counter::new("omma_index_rebuilds_total", "Graphs built anew without their tombstones.");
    /// Snapshots received and installed.
    SNAPSHOTS: Counter = Counter::new("omma_snapshots_installed_total", "Snapshots received and installed.");
    /// Damaged copies.
    REBUILT: Counter =
        Counter::new("omma_replicas_rebuilt_total", "Damaged replicas that were given up and built again from others.");
    /// By group and peer.
    DIGESTS_COMPARED: Counters = Counters::new(
        "omma_digests_compared_total",
        "Digests of two replicas compared at the same applied index, by their group's leader.",
        &["group", "peer"],
    );
    /// By group and peer.
    DIGEST_MISMATCHES: Counters = Counters::new(
        "omma_digest_mismatches_total",
        "Such comparisons that found two replicas to differ.",
        &["group", "peer"],
    );
    /// Queries answered again.
    RECALL_QUERIES: Counter =
        Counter::new("omma_recall_queries_total", "Queries answered a second time, exactly, to measure recall.");
    /// What they should have found.
    RECALL_EXPECTED: Counter = Counter::new(
        "omma_recall_expected_total",
        "Hits of the exact answers: with omma_recall_found_total, recall is found / expected.",
    );
    /// What they did find.
    RECALL_FOUND: Counter =
        Counter::new("omma_recall_found_total", "Hits of the exact answers that the first answers had, too.");
}
