//! Since when files are newer than what is in use of them, because they cannot be used. For servers: a metric.

use std::time::SystemTime;
#[cfg(feature = "server")]
use std::time::UNIX_EPOCH;

/// What files hold that are looked at while a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// Who may call.
    ApiKeys,
    /// Whose tokens are believed.
    KeySet,
    /// What the public port shows.
    PublicCertificate,
    /// What peers show each other, and whom they believe.
    PeerCertificate,
    /// Whom a client believes.
    Authorities,
}

impl Kept {
    /// In the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ApiKeys => "the API keys",
            Self::KeySet => "the key set",
            Self::PublicCertificate => "the public certificate",
            Self::PeerCertificate => "the peer certificate",
            Self::Authorities => "the certificate authorities",
        }
    }

    /// In the metric; `None` for what no server has.
    #[cfg(feature = "server")]
    fn label(self) -> Option<&'static str> {
        match self {
            Self::ApiKeys => Some("api_keys"),
            Self::KeySet => Some("key_set"),
            Self::PublicCertificate => Some("public_certificate"),
            Self::PeerCertificate => Some("peer_certificate"),
            Self::Authorities => None,
        }
    }

    /// Tells that the files cannot be used since then, or can again.
    pub(super) fn stale_since(self, since: Option<SystemTime>) {
        #[cfg(feature = "server")]
        if let Some(label) = self.label() {
            let seconds =
                since.and_then(|since| since.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs());
            STALE.with(&[label]).set(i64::try_from(seconds).unwrap_or(i64::MAX));
        }
        #[cfg(not(feature = "server"))]
        let _ = since;
    }
}

#[cfg(feature = "server")]
crate::metrics! {
    /// By what they hold.
    STALE: Gauges = Gauges::of(
        "omma_files_stale_since_seconds",
        "When files changed to what cannot be used, so that what they held before stays in use; 0 if it is not so.",
        "files",
        &["api_keys", "key_set", "public_certificate", "peer_certificate"],
    );
}

/// What the metric shows.
#[cfg(all(test, feature = "server"))]
pub(super) fn shown(kept: Kept) -> i64 {
    kept.label().map_or(0, |label| STALE.with(&[label]).get())
}
