//! TLS: certificates from files that may change, who a peer is, connections in and out.
//!
//! The public port shows a certificate ([`PublicTls`]); between coordinators and shard nodes both sides do ([`PeerTls`]),
//! and a certificate says by name what its holder may be ([`PeerKind`]). Without either, connections stay on loopback unless
//! a deployment asks for plaintext by name ([`Plaintext`]).

#[cfg(feature = "server")]
pub mod args;
mod dial;
mod files;
#[cfg(feature = "certs")]
pub mod issue;
mod kind;
mod plaintext;
mod stale;
mod verify;
mod watched;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use dial::{Dialer, InvalidAddress, Obstacle, Wire};
pub use files::{PeerConfigs, PeerTls, PublicTls, ServerTrust, TlsError};
pub use kind::PeerKind;
pub use plaintext::{Plaintext, PlaintextRefused};
pub use stale::Kept;
#[cfg(feature = "server")]
pub(crate) use stale::init as show_stale_files;
pub use watched::Watched;

/// One implementation of the ciphers for the whole process.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// gRPC speaks HTTP/2 only.
fn alpn() -> Vec<Vec<u8>> {
    vec![b"h2".to_vec()]
}

#[cfg(feature = "certs")]
#[cfg(test)]
mod tests;
