//! gRPC in: requests to values, values to statuses.

pub mod raft;
