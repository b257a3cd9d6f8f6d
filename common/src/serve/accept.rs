//! Takes connections: TCP, then TLS if there is any, within bounds.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Stream;

use super::activity::{Activity, Registry};
use super::args::ConnectionLimits;
use super::connection::{ConnectInfo, Connection};
use super::origin::Origin;
use super::shaking::Shaking;
use crate::log_limit::{Line, LogLimit};
use crate::tls::{PeerConfigs, PeerKind, PeerTls, PublicTls, TlsError, Watched, Wire};

/// After a failed accept, out of file descriptors mostly: ended connections free some meanwhile.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// Streams end so long after the other side was told to make another connection, that they are begun anew on that one.
const AFTER_RETIREMENT: Duration = Duration::from_secs(1);
/// Lines about handshakes.
static FAILED: LogLimit = LogLimit::new();

/// How a port is protected. Certificates are loaded anew when their files change: the next connection sees them.
#[derive(Debug, Clone)]
pub enum Security {
    /// Plain TCP.
    Plain,
    /// TLS; anybody may connect.
    Public(Watched<ServerConfig>),
    /// TLS for those whose certificate is the cluster's and says what they are.
    Peers(Watched<PeerConfigs>),
}

impl Security {
    /// Of the public port.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn public(files: &PublicTls) -> Result<Self, TlsError> {
        Ok(Self::Public(files.watch()?))
    }

    /// Of a shard node's port.
    ///
    /// # Errors
    /// If the files cannot be used.
    pub fn peers(files: &PeerTls) -> Result<Self, TlsError> {
        Ok(Self::Peers(files.watch()?))
    }

    fn config(&self) -> Option<Arc<ServerConfig>> {
        match self {
            Self::Plain => None,
            Self::Public(config) => Some(config.get()),
            Self::Peers(configs) => Some(configs.get().server.clone()),
        }
    }
}

/// The connections of a listener that are ready to be served.
pub struct Incoming {
    listener: TcpListener,
    security: Security,
    limits: ConnectionLimits,
    registry: Arc<Registry>,
    shaken: JoinSet<Option<Connection>>,
    shaking: Shaking,
}

impl Incoming {
    /// Takes connections of `listener`. The stream never ends; dropping it closes the port.
    pub fn over(
        listener: TcpListener,
        security: Security,
        limits: ConnectionLimits,
    ) -> Pin<Box<dyn Stream<Item = std::io::Result<Connection>> + Send>> {
        let registry = Registry::new(limits.connections, limits.share(limits.connections));
        let shaking = Shaking::new(limits.handshakes, limits.share(limits.handshakes));
        let incoming = Self { listener, security, limits, registry, shaken: JoinSet::new(), shaking };
        Box::pin(futures::stream::unfold(incoming, |mut incoming| async move {
            let connection = incoming.next().await;
            Some((Ok(connection), incoming))
        }))
    }

    async fn next(&mut self) -> Connection {
        loop {
            tokio::select! {
                Some(shaken) = self.shaken.join_next() => if let Ok(Some(connection)) = shaken {
                    return connection;
                },
                accepted = self.listener.accept() => match accepted {
                    Ok((tcp, address)) => if let Some(connection) = self.taken(tcp, address) {
                        return connection;
                    },
                    Err(error) => {
                        tracing::warn!(%error, "cannot take a connection");
                        tokio::time::sleep(AFTER_FAILURE).await;
                    }
                },
            }
        }
    }

    /// A connection that is ready, or `None` if it has to shake hands first.
    fn taken(&mut self, tcp: TcpStream, address: SocketAddr) -> Option<Connection> {
        // Fails only if the other side is gone, which is noticed soon enough.
        let _ = tcp.set_nodelay(true);
        let Some(config) = self.security.config() else {
            return place(&self.registry, Wire::Plain(tcp), address, None, &self.limits);
        };
        let origin = Origin::of(address.ip());
        self.shaking.make_room(origin);
        let (registry, limits) = (self.registry.clone(), self.limits);
        let handshake = self.shaken.spawn(async move {
            let shaken = tokio::time::timeout(limits.handshake, TlsAcceptor::from(config).accept(tcp)).await;
            let stream = match shaken {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    if let Some(Line { skipped }) = FAILED.line() {
                        tracing::info!(%address, %error, skipped, "refused a connection: its TLS handshake failed");
                    }
                    return None;
                }
                Err(_) => {
                    tracing::debug!(%address, "closed a connection: its TLS handshake took too long");
                    return None;
                }
            };
            let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
            let kind = certificate.and_then(PeerKind::of);
            place(&registry, Wire::Tls(Box::new(stream.into())), address, kind, &limits)
        });
        self.shaking.begun(origin, handshake);
        None
    }
}

fn place(
    registry: &Arc<Registry>,
    wire: Wire,
    address: SocketAddr,
    kind: Option<PeerKind>,
    limits: &ConnectionLimits,
) -> Option<Connection> {
    let activity = Activity::new();
    let Some(place) = registry.enter(Origin::of(address.ip()), &activity) else {
        tracing::debug!(%address, "closed a connection: there are as many as may be, and all are busy");
        return None;
    };
    let retires = Instant::now() + limits.age + AFTER_RETIREMENT;
    let info = ConnectInfo { address, kind, retires, activity };
    Some(Connection::new(wire, info, limits, place))
}
