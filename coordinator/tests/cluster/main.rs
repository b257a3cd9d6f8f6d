//! The coordinator over loopback gRPC, in front of doubles of shard nodes that misbehave as told.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod bounds;
mod clients;
mod collections;
mod connections;
mod failures;
mod images;
mod ingest;
#[path = "../support/raw.rs"]
mod raw;
mod serving;
#[path = "../support/mod.rs"]
mod support;
