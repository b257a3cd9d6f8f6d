//! What the holder of a certificate is to the cluster: the URI in its subject alternative names.

use rustls::pki_types::CertificateDer;

/// A kind of process that may use the peer port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PeerKind {
    /// A shard node: may do everything between nodes, Raft among it.
    Shard,
    /// A coordinator: may read, write and ask, but not be a member of a group.
    Coordinator,
}

impl PeerKind {
    /// All of them.
    pub const ALL: [PeerKind; 2] = [PeerKind::Shard, PeerKind::Coordinator];

    /// The URI that stands in its certificate.
    pub fn uri(self) -> &'static str {
        match self {
            PeerKind::Shard => "omma://shard",
            PeerKind::Coordinator => "omma://coordinator",
        }
    }

    /// The kind that a certificate names; `None` if it names none, or more than one. The certificate must have been
    /// verified: this only reads it.
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let parsed = webpki::EndEntityCert::try_from(certificate).ok()?;
        let mut named = Self::ALL.into_iter().filter(|kind| parsed.valid_uri_names().any(|uri| uri == kind.uri()));
        let kind = named.next()?;
        named.next().is_none().then_some(kind)
    }
}
