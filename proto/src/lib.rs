//! Generated code for Omma's protocol; no logic.
//!
//! [`v1`] is the public API. [`internal::v1`] is what nodes say to each other; it also gives the formats of replicated
//! commands and stored log entries.

#![forbid(unsafe_code)]
#![allow(missing_docs, clippy::all)]

/// The public API, package `omma.v1`.
pub mod v1 {
    tonic::include_proto!("omma.v1");
}

/// Between nodes, package `omma.internal.v1`.
pub mod internal {
    /// Its first version.
    pub mod v1 {
        tonic::include_proto!("omma.internal.v1");
    }
}

/// All files as an encoded `google.protobuf.FileDescriptorSet`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub use tonic_types::Status as RpcStatus;
