//! The flags that every server reads the same way.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::dial::Dialer;
use super::files::{PeerTls, PublicTls, TlsError};
use super::plaintext::{Plaintext, PlaintextRefused};
use crate::serve::Security;

/// How the ports of a process are protected, or why it must not start.
#[derive(Debug, thiserror::Error)]
pub enum SecurityError {
    /// Certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No certificates.
    #[error(transparent)]
    Plaintext(#[from] PlaintextRefused),
}

/// Flags of TLS on the public port.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PublicTlsArgs {
    /// Certificate for clients, with its chain, as PEM. Loaded anew when it changes.
    #[arg(long, env = "OMMA_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate, as PEM.
    #[arg(long, env = "OMMA_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

impl PublicTlsArgs {
    /// The files, if TLS is asked for.
    pub fn files(&self) -> Option<PublicTls> {
        Some(PublicTls { cert: self.tls_cert.clone()?, key: self.tls_key.clone()? })
    }
}

/// Flags of mutual TLS between coordinators and shard nodes.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct PeerTlsArgs {
    /// This process's certificate among coordinators and shard nodes, with its chain, as PEM. It names the host, and as
    /// a URI what the process is: omma://shard or omma://coordinator. Loaded anew when it changes.
    #[arg(long, env = "OMMA_PEER_TLS_CERT", value_name = "FILE", requires_all = ["peer_tls_key", "peer_tls_ca"])]
    pub peer_tls_cert: Option<PathBuf>,
    /// Key of that certificate, as PEM.
    #[arg(long, env = "OMMA_PEER_TLS_KEY", value_name = "FILE", requires_all = ["peer_tls_cert", "peer_tls_ca"])]
    pub peer_tls_key: Option<PathBuf>,
    /// Authorities of the cluster's own certificates, as PEM: whoever has one of theirs is believed.
    #[arg(long, env = "OMMA_PEER_TLS_CA", value_name = "FILE", requires_all = ["peer_tls_cert", "peer_tls_key"])]
    pub peer_tls_ca: Option<PathBuf>,
    /// Speak plaintext also with other machines. Everybody on the network can then read and write everything.
    #[arg(long, env = "OMMA_INSECURE_PLAINTEXT")]
    pub insecure_plaintext: bool,
}

impl PeerTlsArgs {
    /// The files, if TLS is asked for.
    pub fn files(&self) -> Option<PeerTls> {
        let (cert, key) = (self.peer_tls_cert.clone()?, self.peer_tls_key.clone()?);
        Some(PeerTls { cert, key, ca: self.peer_tls_ca.clone()? })
    }

    /// Where plaintext may go.
    pub fn plaintext(&self) -> Plaintext {
        Plaintext::from_flag(self.insecure_plaintext)
    }
}

const PEER_FLAGS: &str = "--peer-tls-cert, --peer-tls-key and --peer-tls-ca";

/// How a public port at `address` is protected.
///
/// # Errors
/// If the files cannot be used, or it would be open to other machines without TLS.
pub fn public_port(
    files: Option<&PublicTls>,
    plaintext: Plaintext,
    address: SocketAddr,
) -> Result<Security, SecurityError> {
    match files {
        Some(files) => Ok(Security::public(files)?),
        None => {
            plaintext.check_listen(address, "--tls-cert and --tls-key")?;
            Ok(Security::Plain)
        }
    }
}

/// How a shard node's port at `address` is protected.
///
/// # Errors
/// If the files cannot be used, or it would be open to other machines without TLS.
pub fn peer_port(
    files: Option<&PeerTls>,
    plaintext: Plaintext,
    address: SocketAddr,
) -> Result<Security, SecurityError> {
    match files {
        Some(files) => Ok(Security::peers(files)?),
        None => {
            plaintext.check_listen(address, PEER_FLAGS)?;
            Ok(Security::Plain)
        }
    }
}

/// How shard nodes are dialled, of which some are at `addresses`.
///
/// # Errors
/// If the files cannot be used, or plaintext would go to other machines.
pub fn peer_dialer(
    files: Option<&PeerTls>,
    plaintext: Plaintext,
    addresses: &[String],
) -> Result<Dialer, SecurityError> {
    match files {
        Some(files) => Ok(Dialer::peer(files)?),
        None => {
            addresses.iter().try_for_each(|address| plaintext.check_dial(address, PEER_FLAGS))?;
            Ok(Dialer::plain(plaintext))
        }
    }
}
