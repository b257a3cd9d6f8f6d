//! Connections out: TCP, then TLS if there is any.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tonic::transport::Endpoint;

use super::files::{PeerConfigs, PeerTls, ServerTrust, TlsError};
use super::plaintext::Plaintext;
use super::watched::Watched;

/// An address that cannot be dialled.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is no address: {reason}")]
pub struct InvalidAddress {
    address: String,
    reason: String,
}

/// Why there is no connection, inside of the [`std::io::Error`] that says so, where it is not TCP's own.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// The host's name has no address.
    #[error("the name {host:?} cannot be resolved: {source}")]
    Name {
        /// The name.
        host: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// TCP connects, but the two sides did not agree on TLS.
    #[error("no TLS with the server: {source}")]
    Tls {
        /// What one side said of the other.
        source: std::io::Error,
    },
}

impl From<Obstacle> for std::io::Error {
    fn from(obstacle: Obstacle) -> Self {
        let kind = match &obstacle {
            Obstacle::Name { source, .. } | Obstacle::Tls { source } => source.kind(),
        };
        Self::new(kind, obstacle)
    }
}

/// Makes connections as one party. Clones share its certificates, which are loaded anew when their files change: the
/// next connection has them.
#[derive(Debug, Clone)]
pub struct Dialer(Means);

#[derive(Debug, Clone)]
enum Means {
    Plain(Plaintext),
    Peer(Watched<PeerConfigs>),
    Client(Watched<ClientConfig>),
}

impl Default for Dialer {
    fn default() -> Self {
        Self::plain(Plaintext::Loopback)
    }
}

impl Dialer {
    /// Without TLS, only to where that is allowed.
    pub fn plain(plaintext: Plaintext) -> Self {
        Self(Means::Plain(plaintext))
    }

    /// As a coordinator or shard node, to shard nodes.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn peer(files: &PeerTls) -> Result<Self, TlsError> {
        Ok(Self(Means::Peer(files.watch()?)))
    }

    /// As a client, to coordinators.
    ///
    /// # Errors
    /// If the authorities cannot be read.
    pub fn client(trust: &ServerTrust) -> Result<Self, TlsError> {
        Ok(Self(Means::Client(trust.watch()?)))
    }

    /// To web servers, over HTTP/1.1.
    ///
    /// # Errors
    /// If the authorities cannot be read.
    pub fn web(trust: &ServerTrust) -> Result<Self, TlsError> {
        Ok(Self(Means::Client(trust.watch_web()?)))
    }

    /// An endpoint for `address` (`host:port`), to be connected with this dialer as connector.
    ///
    /// # Errors
    /// If `address` is none.
    pub fn endpoint(&self, address: &str) -> Result<Endpoint, InvalidAddress> {
        let invalid = |reason: String| InvalidAddress { address: address.to_owned(), reason };
        // TLS is the connector's matter; what the server is told of the scheme is the origin.
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|e| invalid(e.to_string()))?;
        if matches!(self.0, Means::Plain(_)) {
            return Ok(endpoint);
        }
        let origin = format!("https://{address}").parse().map_err(|e: http::uri::InvalidUri| invalid(e.to_string()))?;
        Ok(endpoint.origin(origin))
    }

    fn tls(&self) -> Option<Arc<ClientConfig>> {
        match &self.0 {
            Means::Plain(_) => None,
            Means::Peer(configs) => Some(configs.get().client.clone()),
            Means::Client(config) => Some(config.get()),
        }
    }

    async fn connect(self, uri: Uri) -> std::io::Result<TokioIo<Wire>> {
        let none = || std::io::Error::new(std::io::ErrorKind::InvalidInput, "the address has no host");
        let host = uri.host().ok_or_else(none)?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = self.tls();
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let allowed = |ip: IpAddr| match self.0 {
            Means::Plain(plaintext) if !plaintext.allows(ip) => {
                let text = format!("{ip} is not on loopback, and this connection would be plaintext");
                Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, text))
            }
            _ => Ok(()),
        };
        // At once, if it is no name.
        host.parse().map_or(Ok(()), allowed)?;
        let found = lookup_host((host.as_str(), port)).await;
        let addresses: Vec<SocketAddr> =
            found.map_err(|source| Obstacle::Name { host: host.clone(), source })?.collect();
        let tcp = TcpStream::connect(addresses.as_slice()).await?;
        tcp.set_nodelay(true)?;
        allowed(tcp.peer_addr()?.ip())?;
        let Some(tls) = tls else { return Ok(TokioIo::new(Wire::Plain(tcp))) };
        let name = ServerName::try_from(host)
            .map_err(|e| std::io::Error::new(std::io::ErrorKind::InvalidInput, e.to_string()))?;
        let stream = TlsConnector::from(tls).connect(name, tcp).await.map_err(|source| Obstacle::Tls { source })?;
        Ok(TokioIo::new(Wire::Tls(Box::new(stream.into()))))
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<Wire>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// Bytes of one connection, in either direction.
#[derive(Debug)]
pub enum Wire {
    /// TCP.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<tokio_rustls::TlsStream<TcpStream>>),
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(io) => Pin::new(io).poll_write_vectored(cx, bufs),
            Self::Tls(io) => Pin::new(io.as_mut()).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(io) => io.is_write_vectored(),
            Self::Tls(io) => io.is_write_vectored(),
        }
    }
}
