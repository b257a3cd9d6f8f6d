//! Connections to the other nodes, shared by all groups, and where those nodes are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use omma_common::ids::NodeId;
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_common::tls::{Dialer, InvalidAddress};
use omma_proto::internal::v1::raft_service_client::RaftServiceClient;
use parking_lot::{Mutex, RwLock};
use tonic::transport::Channel;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A silent connection is tested this often, …
const KEEPALIVE_EVERY: Duration = Duration::from_secs(2);
/// … and given up when the test is not answered for this long.
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Bytes in flight per stream and per connection. A snapshot cannot use up the connection's share alone.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// Where nodes are, as host and port. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct AddressBook(Arc<RwLock<HashMap<NodeId, String>>>);

impl AddressBook {
    /// Where `node` is, if that is known.
    pub fn get(&self, node: NodeId) -> Option<String> {
        self.0.read().get(&node).cloned()
    }

    /// From now on `node` is at `address`.
    pub fn set(&self, node: NodeId, address: impl Into<String>) {
        self.0.write().insert(node, address.into());
    }

    /// Forgets `node`.
    pub fn remove(&self, node: NodeId) {
        self.0.write().remove(&node);
    }
}

pub(super) type Client = RaftServiceClient<Channel>;

/// One node's connections.
#[derive(Clone)]
pub(super) struct Peer {
    address: String,
    /// For log entries and snapshots.
    pub(super) bulk: Client,
    /// For heartbeats, votes and transfers, which must not wait behind bulk data.
    pub(super) quick: Client,
}

/// All nodes' connections, made when first needed.
#[derive(Default)]
pub(super) struct Peers {
    addresses: AddressBook,
    dialer: Dialer,
    known: Mutex<HashMap<NodeId, Peer>>,
}

impl Peers {
    pub(super) fn new(addresses: AddressBook, dialer: Dialer) -> Self {
        Self { addresses, dialer, known: Mutex::default() }
    }

    /// The address of `node`: the book's, or else the membership's.
    pub(super) fn address(&self, node: NodeId, in_membership: &str) -> String {
        self.addresses.get(node).unwrap_or_else(|| in_membership.to_owned())
    }

    /// Connections to `node`. They are replaced when its address changes.
    pub(super) fn get(&self, node: NodeId, in_membership: &str) -> Result<Peer, InvalidAddress> {
        let address = self.address(node, in_membership);
        let mut known = self.known.lock();
        if let Some(peer) = known.get(&node).filter(|peer| peer.address == address) {
            return Ok(peer.clone());
        }
        let peer = Peer { bulk: connect(&self.dialer, &address)?, quick: connect(&self.dialer, &address)?, address };
        known.insert(node, peer.clone());
        Ok(peer)
    }
}

fn connect(dialer: &Dialer, address: &str) -> Result<Client, InvalidAddress> {
    let endpoint = dialer
        .endpoint(address)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    Ok(RaftServiceClient::new(endpoint.connect_with_connector_lazy(dialer.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_new_address_makes_new_connections() {
        let book = AddressBook::default();
        let peers = Peers::new(book.clone(), Dialer::default());
        assert_eq!(peers.get(1, "localhost:1").unwrap().address, "localhost:1");
        book.set(1, "localhost:2");
        assert_eq!(peers.get(1, "localhost:1").unwrap().address, "localhost:2");
        book.remove(1);
        assert_eq!(peers.get(1, "localhost:1").unwrap().address, "localhost:1");
        assert!(peers.get(2, "not an address").is_err());
    }
}
