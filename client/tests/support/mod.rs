//! A server of the public API in this process: the whole contract that clients rely on, over an in-memory store that
//! is searched exactly. Faults can be switched on.

// Each test binary uses the part that it needs.
#![allow(dead_code, unused_imports, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

mod services;
mod store;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use omma_proto::v1::cluster_service_server::ClusterServiceServer;
use omma_proto::v1::collection_service_server::CollectionServiceServer;
use omma_proto::v1::image_service_server::ImageServiceServer;
use omma_proto::v1::search_service_server::SearchServiceServer;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::server::TcpIncoming;

pub use store::{DIMENSION, Store, embed};

/// What the fake does wrong on purpose, and what it saw.
#[derive(Debug, Default)]
pub struct Faults {
    /// Break the ingest stream after so many answers, once for each entry.
    pub break_stream_after: Vec<usize>,
    /// Apply, but do not answer, the image that arrives when a stream breaks.
    pub lose_answers: bool,
    /// Refuse each image so many times with OVERLOADED before it is stored.
    pub overloaded: u32,
    /// Answer so many calls with GROUP_UNAVAILABLE.
    pub unavailable_calls: u32,
    /// Never answer ingested images.
    pub silent: bool,
}

/// Shared by the services.
#[derive(Debug, Default)]
pub struct State {
    pub store: Store,
    pub faults: Faults,
    /// (image id, request id) of each ingested image, in the order of arrival.
    pub arrivals: Vec<(String, String)>,
    /// Most ingested images that were unanswered at once.
    pub streams_opened: usize,
    /// `grpc-timeout` of the last search.
    pub last_timeout: Option<String>,
    /// A node that is being drained, and whether that is done.
    pub draining: Option<(u64, bool)>,
    pub moves_paused: bool,
    pub slot_moves: Vec<omma_proto::v1::SlotMove>,
}

/// Locked only for a moment and never over an await.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

/// A running fake; it stops when dropped.
pub struct FakeServer {
    pub address: SocketAddr,
    pub state: Shared,
    task: JoinHandle<()>,
}

impl FakeServer {
    /// On a free port.
    pub async fn start(faults: Faults) -> Self {
        let state = Shared::default();
        state.lock().faults = faults;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let most = omma_common::limits::MAX_MESSAGE_BYTES;
        let server = tonic::transport::Server::builder()
            .add_service(CollectionServiceServer::new(state.clone()))
            .add_service(ImageServiceServer::new(state.clone()).max_decoding_message_size(most))
            .add_service(SearchServiceServer::new(state.clone()).max_decoding_message_size(most))
            .add_service(ClusterServiceServer::new(state.clone()))
            .serve_with_incoming(TcpIncoming::from(listener));
        let task = tokio::spawn(async move { server.await.unwrap() });
        Self { address, state, task }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
