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
use super::args::ConnectionLimits;
use crate::tls::{PeerKind, Wire};

/// What a request knows of the connection that it came through: an extension of each request.
#[derive(Debug, Clone)]
pub struct ConnectInfo {
    /// The other end.
    pub address: SocketAddr,
    /// What its certificate says that it is; `None` where certificates are not asked for.
    pub kind: Option<PeerKind>,
    /// From when on the connection takes no more requests.
    pub(super) retires: Instant,
    pub(super) activity: Arc<Activity>,
}

impl ConnectInfo {
    /// Returns once the connection takes no more requests. Streams that would go on should end then, so that they are
    /// begun anew on another connection; it is closed a while later.
    pub fn retired(&self) -> impl Future<Output = ()> + Send + 'static {
        sleep_until(self.retires)
    }

    /// Notes that a request runs, until the guard is dropped.
    pub fn begin(&self) -> InFlight {
        self.activity.begin()
    }
}

/// A connection that ends by itself when it has idled for too long, when it has to give way, or when what was under way at
/// the end of its life does not end.
#[derive(Debug)]
pub struct Connection {
    wire: Wire,
    info: ConnectInfo,
    idle: Duration,
    unread: Duration,
    look: Pin<Box<Sleep>>,
    end: Pin<Box<Sleep>>,
    _place: Place,
}

impl Connection {
    pub(super) fn new(wire: Wire, info: ConnectInfo, limits: &ConnectionLimits, place: Place) -> Self {
        let (idle, unread) = (limits.idle, limits.unread.max(Duration::from_secs(1)));
        let (look, end) = (sleep(idle.min(unread / 2)), sleep_until(info.retires + limits.grace()));
        Self { wire, info, idle, unread, look: Box::pin(look), end: Box::pin(end), _place: place }
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.info.activity.poll_closing(cx).is_ready() || self.end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        loop {
            ready!(self.look.as_mut().poll(cx));
            self.info.activity.unsent.end(self.unread);
            let left = match self.info.activity.idle() {
                Some(idle) if idle >= self.idle => return Poll::Ready(()),
                Some(idle) => self.idle - idle,
                None => self.idle,
            };
            self.look.set(sleep_until(Instant::now() + left.min(self.unread / 2)));
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
        // First, or whoever always has something to say would not be ended.
        if this.poll_over(cx).is_ready() {
            // As if the other side had ended it.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.wire).poll_read(cx, buf)
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::activity::Registry;
    use super::super::origin::Origin;
    use super::*;

    /// However busy it is: its requests may be streams that a thief keeps open.
    #[tokio::test]
    async fn a_connection_that_outlives_its_grace_is_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut other = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (tcp, address) = listener.accept().await.unwrap();
        let (activity, limits) = (Activity::new(), ConnectionLimits::default());
        let begun = Instant::now();
        let retires = begun.checked_sub(limits.grace()).unwrap() + Duration::from_millis(300);
        let place = Registry::new(1, 1).enter(Origin::of(address.ip()), &activity).unwrap();
        let info = ConnectInfo { address, kind: None, retires, activity };
        let _busy = info.begin();
        info.retired().await;
        let mut connection = Connection::new(Wire::Plain(tcp), info, &limits, place);
        // It always has something to say.
        let talking = tokio::spawn(async move { while other.write_all(&[7; 1 << 10]).await.is_ok() {} });
        while connection.read(&mut [0; 8]).await.unwrap() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "it goes on");
        }
        assert!(begun.elapsed() >= Duration::from_millis(300), "{:?}", begun.elapsed());
        talking.abort();
    }
}
