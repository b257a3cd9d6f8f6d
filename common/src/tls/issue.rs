//! Makes an authority and certificates: for clusters that have no other, and for tests.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

use super::kind::PeerKind;

/// Until a certificate's beginning: clocks differ.
const SLACK: Duration = Duration::from_secs(3600);

/// A certificate cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a certificate: {0}")]
pub struct IssueError(#[from] rcgen::Error);

/// A certificate and its key, as PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate.
    pub cert: String,
    /// Its key.
    pub key: String,
}

/// An authority.
pub struct Authority {
    cert: String,
    issuer: Issuer<'static, KeyPair>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// A new one that is good for `life`.
    ///
    /// # Errors
    /// If the system has no randomness.
    pub fn new(life: Duration) -> Result<Self, IssueError> {
        let (params, key) = (lasting(itself(), SystemTime::now(), life), KeyPair::generate()?);
        let cert = params.self_signed(&key)?.pem();
        Ok(Self { cert, issuer: Issuer::new(params, key) })
    }

    /// The one that [`Authority::new`] made, from its PEM files.
    ///
    /// # Errors
    /// If `key` is none.
    pub fn open(cert: String, key: &str) -> Result<Self, IssueError> {
        Ok(Self { cert, issuer: Issuer::new(itself(), KeyPair::from_pem(key)?) })
    }

    /// Its certificate, as PEM.
    pub fn cert(&self) -> &str {
        &self.cert
    }

    /// Its key, as PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A certificate for `hosts` (names or addresses) that is good from `from` for `life`; for a peer it names the kind.
    ///
    /// # Errors
    /// If a host is none.
    pub fn issue(
        &self,
        name: &str,
        kind: Option<PeerKind>,
        hosts: &[String],
        from: SystemTime,
        life: Duration,
    ) -> Result<Issued, IssueError> {
        let mut params = lasting(CertificateParams::new(hosts.to_vec())?, from, life);
        params.distinguished_name = Default::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(kind) = kind {
            params.subject_alt_names.push(SanType::URI(kind.uri().try_into()?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Issued { cert: cert.pem(), key: key.serialize_pem() })
    }
}

fn itself() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = Default::default();
    params.distinguished_name.push(DnType::CommonName, "Omma authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn lasting(mut params: CertificateParams, from: SystemTime, life: Duration) -> CertificateParams {
    params.not_before = (from - SLACK).into();
    params.not_after = (from + life).into();
    params
}
