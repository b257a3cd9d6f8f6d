//! Connections to the other nodes, shared by all groups, and where those nodes are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use omma_common::ids::NodeId;
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_common::tls::{Dialer, InvalidAddress};
use omma_proto::internal::v1::raft_service_client::RaftServiceClient;
use parking_lot::{Mutex, RwLock};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Names the node that a call is meant for: one that lost its disk comes back at the same address as another node, and
/// what that one has must not be taken for the lost one's.
pub(crate) const TO_NODE: &str = "omma-to-node";

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

pub(super) type Client = RaftServiceClient<InterceptedService<Channel, Addressed>>;

/// Writes the node's id on every call.
#[derive(Clone)]
pub(super) struct Addressed(MetadataValue<Ascii>);

impl Interceptor for Addressed {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        request.metadata_mut().insert(TO_NODE, self.0.clone());
        Ok(request)
    }
}

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
        let connect = || connect(&self.dialer, node, &address);
        let peer = Peer { bulk: connect()?, quick: connect()?, address: address.clone() };
        known.insert(node, peer.clone());
        Ok(peer)
    }
}

fn connect(dialer: &Dialer, node: NodeId, address: &str) -> Result<Client, InvalidAddress> {
    let endpoint = dialer
        .endpoint(address)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_EVERY)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let channel = endpoint.connect_with_connector_lazy(dialer.clone());
    Ok(RaftServiceClient::with_interceptor(channel, Addressed(node.into()))
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
