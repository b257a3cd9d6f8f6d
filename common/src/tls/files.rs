//! From PEM files to what rustls needs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, version};

use super::kind::PeerKind;
use super::stale::Kept;
use super::verify::{KnownPeers, ShardsOnly};
use super::watched::Watched;
use super::{alpn, provider};

/// Certificates or keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file is no PEM, or not there.
    #[error("cannot read {}: {reason}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file has no certificate.
    #[error("{} holds no certificate (a PEM block that begins with -----BEGIN CERTIFICATE-----)", .0.display())]
    NoCertificate(PathBuf),
    /// The certificate of a peer does not say what it is.
    #[error(
        "the certificate in {} does not say what its holder is: give it the URI omma://shard or omma://coordinator as \
         a subject alternative name, one of the two",
        .0.display()
    )]
    NoKind(PathBuf),
    /// They do not belong together, or are of a kind that is not supported.
    #[error("{} cannot be used: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The system's own authorities cannot be read.
    #[error("the system's certificate authorities cannot be read ({0}): name a file with --ca")]
    SystemAuthorities(String),
}

/// The certificate that the public port shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicTls {
    /// PEM: its own certificate first, then those up to the authority's.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// What a coordinator or shard node shows to the others, and whom it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerTls {
    /// PEM: its own certificate first, then those up to the authority's.
    pub cert: PathBuf,
    /// PEM.
    pub key: PathBuf,
    /// PEM: the authorities of the cluster.
    pub ca: PathBuf,
}

/// Whom a client believes, and what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerTrust {
    /// PEM: authorities; those of the system if left out.
    pub ca: Option<PathBuf>,
}

/// Both halves of what one peer needs.
#[derive(Debug)]
pub struct PeerConfigs {
    /// For its port.
    pub server: Arc<ServerConfig>,
    /// For its connections to other peers.
    pub client: Arc<ClientConfig>,
}

impl PublicTls {
    /// Loaded, and loaded anew when the files change.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn watch(&self) -> Result<Watched<ServerConfig>, TlsError> {
        let files = self.clone();
        Watched::over(Kept::PublicCertificate, vec![self.cert.clone(), self.key.clone()], move || files.load())
    }

    fn load(&self) -> Result<ServerConfig, TlsError> {
        let (certified, key) = own(&self.cert, &self.key)?;
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(unusable(&self.cert))?
            .with_no_client_auth()
            .with_single_cert(certified, key);
        let mut config = config.map_err(unusable(&self.cert))?;
        config.alpn_protocols = alpn();
        Ok(config)
    }
}

impl PeerTls {
    /// Loaded, and loaded anew when the files change.
    ///
    /// # Errors
    /// If they cannot be used.
    pub fn watch(&self) -> Result<Watched<PeerConfigs>, TlsError> {
        let files = self.clone();
        let paths = vec![self.cert.clone(), self.key.clone(), self.ca.clone()];
        Watched::over(Kept::PeerCertificate, paths, move || files.load())
    }

    fn load(&self) -> Result<PeerConfigs, TlsError> {
        let roots = Arc::new(authorities(&self.ca)?);
        let (certificates, key) = own(&self.cert, &self.key)?;
        if certificates.first().and_then(PeerKind::of).is_none() {
            return Err(TlsError::NoKind(self.cert.clone()));
        }
        let believed = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider())
            .build()
            .map_err(unusable(&self.ca))?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(unusable(&self.cert))?
            .with_client_cert_verifier(Arc::new(KnownPeers(believed)))
            .with_single_cert(certificates.clone(), key.clone_key())
            .map_err(unusable(&self.cert))?;
        server.alpn_protocols = alpn();
        // Each connection proves itself: a resumed one would outlive its certificate.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(unusable(&self.cert))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(ShardsOnly::new(roots).map_err(unusable(&self.ca))?))
            .with_client_auth_cert(certificates, key)
            .map_err(unusable(&self.cert))?;
        client.alpn_protocols = alpn();
        client.resumption = Resumption::disabled();
        Ok(PeerConfigs { server: Arc::new(server), client: Arc::new(client) })
    }
}

impl ServerTrust {
    /// For gRPC. Loaded, and loaded anew when the file changes.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn watch(&self) -> Result<Watched<ClientConfig>, TlsError> {
        self.watch_for(alpn())
    }

    /// For web servers, over HTTP/1.1. Loaded, and loaded anew when the file changes.
    ///
    /// # Errors
    /// If it cannot be used.
    pub fn watch_web(&self) -> Result<Watched<ClientConfig>, TlsError> {
        self.watch_for(vec![b"http/1.1".to_vec()])
    }

    fn watch_for(&self, alpn: Vec<Vec<u8>>) -> Result<Watched<ClientConfig>, TlsError> {
        let (trust, files) = (self.clone(), self.ca.iter().cloned().collect());
        Watched::over(Kept::Authorities, files, move || trust.load(alpn.clone()))
    }

    fn load(&self, alpn: Vec<Vec<u8>>) -> Result<ClientConfig, TlsError> {
        let roots = match &self.ca {
            Some(ca) => authorities(ca)?,
            None => of_the_system()?,
        };
        let config = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
        let mut config = config
            .map_err(|e| TlsError::SystemAuthorities(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn;
        Ok(config)
    }
}

fn unusable<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> TlsError {
    let path = path.to_owned();
    move |error| TlsError::Unusable { path, reason: error.to_string() }
}

fn unreadable<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> TlsError {
    let path = path.to_owned();
    move |error| TlsError::Read { path, reason: error.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all = CertificateDer::pem_file_iter(path).map_err(unreadable(path))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(unreadable(path))?;
    if all.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(all) }
}

/// A certificate with its chain, and its key; checked to belong together.
pub(super) fn own(cert: &Path, key: &Path) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(unreadable(key))?;
    CertifiedKey::from_der(chain.clone(), secret.clone_key(), &provider()).map_err(unusable(key))?;
    Ok((chain, secret))
}

pub(super) fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(unusable(path))?;
    }
    Ok(roots)
}

fn of_the_system() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    // Systems carry a few that are too old to parse.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(TlsError::SystemAuthorities(why));
    }
    Ok(roots)
}
