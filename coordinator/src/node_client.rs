//! Calls to shard nodes: one way to each address, and places for the calls that are under way, which clients get in turn.

mod way;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::fair::{Turn, Turns};
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_common::serve::InProcess;
use omma_common::telemetry;
use omma_common::tls::Dialer;
use omma_proto::internal::v1 as node;
use omma_proto::internal::v1::metadata_service_client::MetadataServiceClient;
use omma_proto::internal::v1::shard_service_client::ShardServiceClient;
use parking_lot::Mutex;
use tower::ServiceExt;
use tracing::Instrument;

use self::way::Way;
use crate::access::client_id;
use crate::error::{CallError, Next, judge};
use crate::metrics::REFUSED;

/// Longest wait for a place among the calls to one node.
const QUEUE_WAIT: Duration = Duration::from_secs(1);
/// Calls to one node that may wait for one.
const WAITING: usize = 8192;
/// How long a failure makes a node the last choice.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The same for a call that nobody waited for any longer, because a hedge was faster or the deadline passed.
const AFTER_ABANDONED: Duration = Duration::from_millis(250);
/// A call abandoned sooner says nothing about the node.
const ABANDONED_LATE: Duration = Duration::from_millis(20);

/// One shard node, as far as this coordinator calls it.
#[derive(Debug)]
pub(crate) struct NodeClient {
    address: String,
    way: Way,
    places: Arc<Turns>,
    in_flight: AtomicUsize,
    ended: AtomicU64,
    failed: AtomicU64,
    shunned_until: Mutex<Option<Instant>>,
}

/// Counts a call for as long as it runs, and notes if it was given up.
struct InFlight<'a> {
    node: &'a NodeClient,
    /// When it got its place. A wait in our own line says nothing about the node.
    begun: Option<Instant>,
    answered: bool,
}

impl<'a> InFlight<'a> {
    fn enter(node: &'a NodeClient) -> Self {
        node.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { node, begun: None, answered: false }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.node.in_flight.fetch_sub(1, Ordering::Relaxed);
        let Some(begun) = self.begun else { return };
        self.node.ended.fetch_add(1, Ordering::Relaxed);
        if !self.answered {
            self.node.failed.fetch_add(1, Ordering::Relaxed);
        }
        if !self.answered && begun.elapsed() > ABANDONED_LATE {
            self.node.shun(AFTER_ABANDONED);
        }
    }
}

/// One method per remote call: deadline and trace context go along, the answer is judged.
macro_rules! calls {
    ($($client:ident { $($name:ident($request:ty) -> $response:ty;)* })*) => {
        $($(
            pub(crate) async fn $name(&self, deadline: Deadline, message: $request) -> Result<$response, CallError> {
                let rpc = stringify!($name);
                let call = async {
                    let mut counted = InFlight::enter(self);
                    let (way, _place) = self.admitted(deadline, &mut counted).await?;
                    let mut client = $client::new(way)
                        .max_decoding_message_size(MAX_MESSAGE_BYTES)
                        .max_encoding_message_size(MAX_MESSAGE_BYTES);
                    let answer = deadline.run(rpc, client.$name(deadline.request(message))).await?;
                    let judged = self.judged(answer.map(tonic::Response::into_inner));
                    counted.answered = judged.as_ref().map_or_else(|e| e.error.reason != Reason::NodeUnreachable, |_| true);
                    judged
                };
                let span = telemetry::child(|| tracing::debug_span!("call", otel.name = rpc, otel.kind = "client", node = self.address));
                call.instrument(span).await
            }
        )*)*
    };
}

impl NodeClient {
    fn new(address: &str, calls: usize, way: Way) -> Self {
        Self {
            address: address.to_owned(),
            way,
            places: Turns::shared(calls, WAITING),
            in_flight: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            shunned_until: Mutex::new(None),
        }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Calls that run or wait; a measure of how busy the node is with us.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Calls that ended so far, and those of them that could not reach the node or were given up.
    pub(crate) fn totals(&self) -> (u64, u64) {
        (self.ended.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }

    /// Whether it failed, or was too slow, a moment ago.
    pub(crate) fn shunned(&self) -> bool {
        self.shunned_until.lock().is_some_and(|until| Instant::now() < until)
    }

    fn shun(&self, time: Duration) {
        let until = Instant::now() + time;
        let mut shunned = self.shunned_until.lock();
        *shunned = Some(shunned.map_or(until, |already| already.max(until)));
    }

    /// The way with a place on it, waited for within a bound.
    async fn admitted(&self, deadline: Deadline, counted: &mut InFlight<'_>) -> Result<(Way, Turn), CallError> {
        let mut way = self.way.clone();
        let admitted = async {
            let Ok(place) = self.places.take(client_id()).await else { return Err(self.too_many()) };
            counted.begun = Some(Instant::now());
            match way.ready().await {
                Ok(_) => Ok(place),
                Err(e) => {
                    self.shun(AFTER_FAILURE);
                    let error = ApiError::new(Reason::NodeUnreachable, format!("shard node {}: {e}", self.address));
                    Err(CallError { next: Next::Elsewhere, error })
                }
            }
        };
        match tokio::time::timeout_at(deadline.within(QUEUE_WAIT).instant(), admitted).await {
            Ok(place) => Ok((way, place?)),
            Err(_) if deadline.passed() => {
                Err(ApiError::new(Reason::DeadlineExceeded, "the deadline passed before a call could start").into())
            }
            Err(_) => Err(self.too_many()),
        }
    }

    fn too_many(&self) -> CallError {
        REFUSED.with(&["calls"]).inc();
        let text = format!("too many calls to shard node {} are under way", self.address);
        ApiError::new(Reason::Overloaded, text).into()
    }

    fn judged<T>(&self, answer: Result<T, tonic::Status>) -> Result<T, CallError> {
        let judged = answer.map_err(|status| judge(&status, &self.address));
        match &judged {
            Err(e) if e.error.reason == Reason::NodeUnreachable => self.shun(AFTER_FAILURE),
            _ => *self.shunned_until.lock() = None,
        }
        judged
    }

    calls! {
        ShardServiceClient {
            put_images(node::PutImagesRequest) -> node::PutImagesResponse;
            delete_images(node::DeleteImagesRequest) -> node::DeleteImagesResponse;
            get_images(node::GetImagesRequest) -> node::GetImagesResponse;
            search_group(node::SearchGroupRequest) -> node::SearchGroupResponse;
            encode_picture(node::EncodePictureRequest) -> node::EncodePictureResponse;
            cut_collection(node::CutCollectionRequest) -> node::CutCollectionResponse;
            read_cut(node::ReadCutRequest) -> node::ReadCutResponse;
            import_records(node::ImportRecordsRequest) -> node::ImportRecordsResponse;
            drop_collection(node::DropCollectionRequest) -> node::DropCollectionResponse;
            get_node_status(node::GetNodeStatusRequest) -> node::GetNodeStatusResponse;
        }
        MetadataServiceClient {
            get_metadata(node::GetMetadataRequest) -> node::GetMetadataResponse;
            propose_metadata(node::ProposeMetadataRequest) -> node::ProposeMetadataResponse;
        }
    }
}

/// The clients by address, made when first asked for.
#[derive(Debug)]
pub(crate) struct Nodes {
    calls_per_node: usize,
    dialer: Dialer,
    in_process: Option<InProcess>,
    clients: Mutex<HashMap<String, Arc<NodeClient>>>,
}

impl Nodes {
    /// At most `calls_per_node` calls to each at once; the node that is `in_process` is reached without a connection.
    pub(crate) fn new(calls_per_node: usize, dialer: Dialer, in_process: Option<InProcess>) -> Self {
        Self { calls_per_node, dialer, in_process, clients: Mutex::new(HashMap::new()) }
    }

    /// The client of `address`. Must be called within a tokio runtime; connects when first used.
    pub(crate) fn get(&self, address: &str) -> Result<Arc<NodeClient>, ApiError> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(address) {
            return Ok(Arc::clone(client));
        }
        let way = match &self.in_process {
            Some(in_process) if in_process.address() == address => Way::InProcess(in_process.clone()),
            _ => Way::connection(address, &self.dialer)?,
        };
        let client = Arc::new(NodeClient::new(address, self.calls_per_node, way));
        clients.insert(address.to_owned(), Arc::clone(&client));
        Ok(client)
    }

    /// Forgets the clients of nodes that are gone; calls under way end as they would.
    pub(crate) fn retain(&self, addresses: &BTreeSet<&str>) {
        self.clients.lock().retain(|address, _| addresses.contains(address.as_str()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_has_one_client() {
        let nodes = Nodes::new(1, Dialer::default(), None);
        let a = nodes.get("127.0.0.1:1").unwrap();
        assert!(Arc::ptr_eq(&a, &nodes.get("127.0.0.1:1").unwrap()));
        nodes.retain(&BTreeSet::new());
        assert!(!Arc::ptr_eq(&a, &nodes.get("127.0.0.1:1").unwrap()));
        assert_eq!(nodes.get("not an address").unwrap_err().reason, Reason::NodeUnreachable);
    }

    #[tokio::test]
    async fn a_node_that_refuses_is_shunned_for_a_while() {
        refused(&Nodes::new(4, Dialer::default(), None)).await;
        refused(&Nodes::new(4, Dialer::default(), Some(InProcess::at("127.0.0.1:1")))).await;
    }

    #[tokio::test]
    async fn a_wait_in_our_own_line_is_not_held_against_the_node() {
        let client = Nodes::new(1, Dialer::default(), None).get("127.0.0.1:1").unwrap();
        let _place = client.places.take(9).await.unwrap();
        let deadline = Deadline::after(3 * ABANDONED_LATE);
        let error = client.get_node_status(deadline, node::GetNodeStatusRequest {}).await.unwrap_err();
        assert_eq!(error.error.reason, Reason::DeadlineExceeded);
        assert!(!client.shunned());
        assert_eq!((client.in_flight(), client.totals()), (0, (0, 0)));
    }

    async fn refused(nodes: &Nodes) {
        let client = nodes.get("127.0.0.1:1").unwrap();
        let deadline = Deadline::after(Duration::from_secs(5));
        let error = client.get_node_status(deadline, node::GetNodeStatusRequest {}).await.unwrap_err();
        assert_eq!((error.next, error.error.reason), (Next::Elsewhere, Reason::NodeUnreachable));
        assert!(client.shunned());
        assert_eq!(client.in_flight(), 0);
    }
}
