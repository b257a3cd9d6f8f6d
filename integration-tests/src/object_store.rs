//! An object store that speaks S3's protocol, in this process, over a folder: each object is a file of it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow};
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use omma_common::tls::issue::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use s3s::auth::SimpleAuth;
use s3s::service::{S3Service, S3ServiceBuilder};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

const DAY: Duration = Duration::from_secs(86_400);
const ACCESS: &str = "test-access";
const SECRET: &str = "test-secret";

/// A server with one bucket. It ends with this.
#[derive(Debug)]
pub struct ObjectStore {
    folder: PathBuf,
    address: SocketAddr,
    scheme: &'static str,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Counts {
    requests: AtomicUsize,
    /// Requests that are answered; those after them wait forever.
    answered: AtomicUsize,
}

impl Drop for ObjectStore {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ObjectStore {
    /// The bucket.
    pub const BUCKET: &'static str = "backups";

    /// Serves `folder` on loopback: over plain HTTP, or with a certificate of an authority that it writes to `ca.pem` in
    /// the folder.
    ///
    /// # Errors
    /// If that cannot be.
    pub async fn start(folder: &Path, tls: bool) -> Result<Self> {
        std::fs::create_dir_all(folder.join(Self::BUCKET))?;
        let store = s3s_fs::FileSystem::new(folder).map_err(|e| anyhow!("{e:?}"))?;
        let mut builder = S3ServiceBuilder::new(store);
        builder.set_auth(SimpleAuth::from_single(ACCESS, SECRET));
        let service = builder.build();
        let acceptor = match tls {
            true => Some(acceptor(folder)?),
            false => None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts { requests: AtomicUsize::new(0), answered: AtomicUsize::new(usize::MAX) });
        let task = tokio::spawn(accept(listener, acceptor, service, counts.clone()));
        Ok(Self { folder: folder.to_owned(), address, scheme: if tls { "https" } else { "http" }, counts, task })
    }

    /// Where the objects under `prefix` are, as files.
    pub fn folder(&self, prefix: &str) -> PathBuf {
        self.folder.join(Self::BUCKET).join(prefix)
    }

    /// What a program must have in its environment to get in.
    pub fn environment(&self) -> Vec<(String, String)> {
        let mut variables = vec![
            ("AWS_ENDPOINT_URL", format!("{}://{}", self.scheme, self.address)),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", ACCESS.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", SECRET.to_owned()),
        ];
        if self.scheme == "https" {
            variables.push(("AWS_CA_BUNDLE", self.folder.join("ca.pem").display().to_string()));
        }
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Answers so many more requests, and leaves those after them without an answer until [`Self::go_on`].
    pub fn stop_after(&self, requests: usize) {
        let from = self.counts.requests.load(Ordering::SeqCst);
        self.counts.answered.store(from + requests, Ordering::SeqCst);
    }

    /// Whether a request waits in vain.
    pub fn holds_requests(&self) -> bool {
        self.counts.requests.load(Ordering::SeqCst) > self.counts.answered.load(Ordering::SeqCst)
    }

    /// Answers what comes from now on.
    pub fn go_on(&self) {
        self.counts.answered.store(usize::MAX, Ordering::SeqCst);
    }
}

fn acceptor(folder: &Path) -> Result<TlsAcceptor> {
    let authority = Authority::new(DAY)?;
    std::fs::write(folder.join("ca.pem"), authority.cert())?;
    let issued = authority.issue("object store", None, &["127.0.0.1".to_owned()], SystemTime::now(), DAY)?;
    let chain = CertificateDer::pem_slice_iter(issued.cert.as_bytes()).collect::<Result<Vec<_>, _>>();
    let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).map_err(|e| anyhow!("{e}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain.map_err(|e| anyhow!("{e}")).context("no certificate")?, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, service: S3Service, counts: Arc<Counts>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, tls.clone(), service.clone(), counts.clone()));
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, service: S3Service, counts: Arc<Counts>) {
    match tls {
        None => serve(stream, service, counts).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                serve(stream, service, counts).await;
            }
        }
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, service: S3Service, counts: Arc<Counts>) {
    let answer = service_fn(move |request| {
        let (service, counts) = (service.clone(), counts.clone());
        async move {
            if counts.requests.fetch_add(1, Ordering::SeqCst) >= counts.answered.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            Service::call(&service, request).await
        }
    });
    // Clients go away as they like.
    let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
}
