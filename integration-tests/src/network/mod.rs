//! The network between the processes of a cluster, and the harm that tests do to it.
//!
//! Every shard node advertises the address of a proxy in this process, so whoever calls it comes through there. A
//! proxy tells its callers apart by the process that owns the other end of a connection, so each pair of processes has
//! a link of its own in either direction, and the servers under test know nothing of it. Linux only.

mod callers;
mod pump;
mod sockets;

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A process at one end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Party {
    /// A shard node.
    Shard(usize),
    /// A coordinator.
    Coordinator(usize),
    /// The test itself.
    Test,
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(i) => write!(f, "shard-{i}"),
            Self::Coordinator(i) => write!(f, "coordinator-{i}"),
            Self::Test => f.write_str("test"),
        }
    }
}

impl Party {
    /// The party that a process of this name is.
    fn named(name: &str) -> Option<Self> {
        let (kind, number) = name.rsplit_once('-')?;
        let number = number.parse().ok()?;
        match kind {
            "shard" => Some(Self::Shard(number)),
            "coordinator" => Some(Self::Coordinator(number)),
            _ => None,
        }
    }
}

/// What happens to bytes on their way from one party to another, whichever of the two made the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Link {
    /// They pass.
    #[default]
    Open,
    /// They pass this much later.
    Slow(Duration),
    /// They wait until the link is mended, as what TCP sends again and again. Neither end is told.
    Cut,
}

/// Proxies and links of one cluster. Dropping it closes all connections.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    proxies: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    run_folder: PathBuf,
    links: Mutex<HashMap<(Party, Party), watch::Sender<Link>>>,
}

impl Shared {
    fn with<T>(&self, from: Party, to: Party, work: impl FnOnce(&watch::Sender<Link>) -> T) -> T {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        work(links.entry((from, to)).or_insert_with(|| watch::Sender::new(Link::Open)))
    }

    fn watch(&self, from: Party, to: Party) -> watch::Receiver<Link> {
        self.with(from, to, watch::Sender::subscribe)
    }
}

impl Network {
    /// Without proxies yet. `run_folder` has the pid files of the cluster's processes.
    pub fn new(run_folder: &Path) -> Self {
        let shared = Shared { run_folder: run_folder.to_owned(), links: Mutex::default() };
        Self { shared: Arc::new(shared), proxies: JoinSet::new() }
    }

    /// Makes `address` the way to `callee`, which listens at `behind`.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub fn proxy(&mut self, callee: Party, address: &str, behind: &str) -> Result<()> {
        let listener = std::net::TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let behind: SocketAddr = behind.parse()?;
        self.proxies.spawn(serve(self.shared.clone(), callee, listener, behind));
        Ok(())
    }

    /// From now on bytes from `from` to `to` fare so. The other direction is not touched.
    pub fn set(&self, from: Party, to: Party, link: Link) {
        self.shared.with(from, to, |sender| sender.send_replace(link));
    }

    /// Opens all links.
    pub fn heal(&self) {
        let links = self.shared.links.lock().unwrap_or_else(PoisonError::into_inner);
        for sender in links.values() {
            sender.send_replace(Link::Open);
        }
    }
}

async fn serve(shared: Arc<Shared>, callee: Party, listener: TcpListener, behind: SocketAddr) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // Out of file descriptors, say: the next one may fare better.
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(shared.clone(), callee, stream, behind));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection. A caller that is none of the cluster's, and one that is gone already, is turned away.
async fn connection(shared: Arc<Shared>, callee: Party, stream: TcpStream, behind: SocketAddr) {
    let (Ok(peer), Ok(here)) = (stream.peer_addr(), stream.local_addr()) else { return };
    let folder = shared.run_folder.clone();
    let found = tokio::task::spawn_blocking(move || callers::caller(&folder, peer.port(), here.port())).await;
    let Ok(Some(caller)) = found else { return };
    let (there, back) = (shared.watch(caller, callee), shared.watch(callee, caller));
    // A handshake takes both directions.
    for direction in [&there, &back] {
        if direction.clone().wait_for(|link| *link != Link::Cut).await.is_err() {
            return;
        }
    }
    let Ok(onward) = TcpStream::connect(behind).await else { return };
    let (_, _) = (stream.set_nodelay(true), onward.set_nodelay(true));
    let (from_caller, to_caller) = stream.into_split();
    let (from_callee, to_callee) = onward.into_split();
    tokio::join!(pump::pump(from_caller, to_callee, there), pump::pump(from_callee, to_caller, back));
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(10);

    #[test]
    fn parties_have_the_names_of_their_processes() {
        for party in [Party::Shard(2), Party::Coordinator(0)] {
            assert_eq!(Party::named(&party.to_string()), Some(party));
        }
        assert_eq!(Party::named("shard-x"), None);
        assert_eq!(Party::named("other-1"), None);
    }

    /// An echo behind a proxy, and a connection to it.
    async fn echo() -> (Network, TcpStream) {
        let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = echo.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = echo.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
        });
        let folder = std::env::temp_dir();
        let mut network = Network::new(&folder);
        let address = format!("127.0.0.1:{}", crate::ports::free_port().unwrap());
        network.proxy(Party::Shard(0), &address, &behind).unwrap();
        let stream = TcpStream::connect(&address).await.unwrap();
        (network, stream)
    }

    async fn read(stream: &mut TcpStream, patience: Duration) -> Option<u8> {
        timeout(patience, stream.read_u8()).await.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn each_direction_is_cut_alone_and_nothing_is_lost() {
        let (network, mut stream) = echo().await;
        stream.write_u8(1).await.unwrap();
        assert_eq!(read(&mut stream, LONG).await, Some(1));
        for (from, to) in [(Party::Test, Party::Shard(0)), (Party::Shard(0), Party::Test)] {
            network.set(from, to, Link::Cut);
            stream.write_u8(2).await.unwrap();
            assert_eq!(read(&mut stream, SHORT).await, None, "from {from} to {to}");
            network.heal();
            assert_eq!(read(&mut stream, LONG).await, Some(2));
        }
        network.set(Party::Coordinator(0), Party::Shard(0), Link::Cut);
        stream.write_u8(3).await.unwrap();
        assert_eq!(read(&mut stream, LONG).await, Some(3), "another party's link");
    }

    #[tokio::test]
    async fn slow_links_take_their_time() {
        let (network, mut stream) = echo().await;
        network.set(Party::Test, Party::Shard(0), Link::Slow(SHORT));
        let begin = tokio::time::Instant::now();
        stream.write_u8(1).await.unwrap();
        assert_eq!(read(&mut stream, LONG).await, Some(1));
        assert!(begin.elapsed() >= SHORT);
    }
}
