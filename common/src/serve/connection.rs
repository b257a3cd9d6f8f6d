//! One connection of a server.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::transport::server::Connected;

use super::activity::{Activity, InFlight, Place};
use crate::tls::{PeerKind, Wire};

/// What a request knows of the connection that it came through: an extension of each request.
#[derive(Debug, Clone)]
pub struct ConnectInfo {
    /// The other end.
    pub address: SocketAddr,
    /// What its certificate says that it is; `None` where certificates are not asked for.
    pub kind: Option<PeerKind>,
    pub(super) activity: Arc<Activity>,
}

impl ConnectInfo {
    /// Notes that a request runs, until the guard is dropped.
    pub fn begin(&self) -> InFlight {
        self.activity.begin()
    }
}

/// A connection that ends by itself when it has idled for too long, or when it has to give way.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    info: ConnectInfo,
    idle: Duration,
    look: Pin<Box<Sleep>>,
    _place: Place,
}

impl Connection {
    pub(super) fn new(wire: Wire, info: ConnectInfo, idle: Duration, place: Place) -> Self {
        Self { wire, info, idle, look: Box::pin(sleep(idle)), _place: place }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.info.activity.poll_closing(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            ready!(self.look.as_mut().poll(cx));
            let left = match self.info.activity.idle() {
                Some(idle) if idle >= self.idle => return Poll::Ready(()),
                Some(idle) => self.idle - idle,
                None => self.idle,
            };
            self.look.set(sleep_until(Instant::now() + left));
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if let Poll::Ready(read) = Pin::new(&mut this.wire).poll_read(cx, buf) {
            return Poll::Ready(read);
        }
        // As if the other side had ended it.
        this.poll_over(cx).map(Ok)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().wire).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }
}
