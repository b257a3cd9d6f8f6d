//! Keeps the cluster map and the leaders fresh: a poll about every second, and at once when a request meets something
//! that the map does not explain.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_common::retry::Backoff;
use omma_common::shutdown::Shutdown;
use omma_proto::internal::v1::{GetMetadataRequest, GetMetadataResponse};
use parking_lot::Mutex;
use rand::Rng;
use tokio::sync::watch;

use super::leaders::{Leader, Leaders};
use super::map::{ClusterMap, Collection, InvalidMap};
use crate::error::{CallError, LeaderAddress};
use crate::leader::{Effect, call_leader};
use crate::node_client::{NodeClient, Nodes};

/// Longest wait for one node's metadata in a poll.
const POLL_DEADLINE: Duration = Duration::from_millis(800);
/// Once one node has answered, how much longer the others are waited for.
const GRACE: Duration = Duration::from_millis(100);
/// Between polls while there is no map yet.
const SEARCHING: Duration = Duration::from_millis(200);
/// So long without an answer from any shard node, and this coordinator is of no use. Many polls, so that shard nodes
/// with too much to do do not make coordinators leave.
const CUT_OFF: Duration = Duration::from_secs(10);

/// The newest known state of the cluster.
#[derive(Debug)]
pub(crate) struct Routing {
    seeds: Vec<String>,
    nodes: Nodes,
    map: watch::Sender<Option<Arc<ClusterMap>>>,
    leaders: watch::Sender<Leaders>,
    /// When a node last answered with news, or that there are none.
    heard: Mutex<Option<Instant>>,
    loose: SingleFlight,
    exact: SingleFlight,
}

impl Routing {
    pub(crate) fn new(seeds: Vec<String>, nodes: Nodes) -> Self {
        Self {
            seeds,
            nodes,
            map: watch::Sender::new(None),
            leaders: watch::Sender::new(Leaders::default()),
            heard: Mutex::default(),
            loose: SingleFlight::default(),
            exact: SingleFlight::default(),
        }
    }

    /// Polls until the shutdown.
    pub(crate) async fn poll(&self, interval: Duration, shutdown: Shutdown) {
        loop {
            self.refresh().await;
            let known = self.map.borrow().is_some();
            let wait = if known { interval } else { SEARCHING.min(interval) };
            let wait = wait.mul_f64(rand::rng().random_range(0.8..=1.2));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.clone().begun() => return,
            }
        }
    }

    /// Told of each new map.
    pub(crate) fn watch(&self) -> watch::Receiver<Option<Arc<ClusterMap>>> {
        self.map.subscribe()
    }

    /// Since a node last told the map.
    pub(crate) fn age(&self) -> Option<Duration> {
        self.heard.lock().map(|at| at.elapsed())
    }

    /// Why nothing can be forwarded; `None` if something can. One shard node that answers is enough.
    pub(crate) fn useless(&self) -> Option<String> {
        useless(self.map.borrow().is_some(), self.age())
    }

    /// The map, asked for if there is none yet.
    pub(crate) async fn map(&self) -> Result<Arc<ClusterMap>, ApiError> {
        if let Some(map) = self.map.borrow().clone() {
            return Ok(map);
        }
        self.refresh().await;
        self.map.borrow().clone().ok_or_else(|| {
            let text = format!("no shard node of {} could tell the cluster map yet", self.seeds.join(", "));
            ApiError::new(Reason::ClusterForming, text)
        })
    }

    /// A collection by name. One that the cache does not know is looked for at the metadata leader before it is
    /// said not to exist: it may have been made through another coordinator.
    pub(crate) async fn collection(&self, name: &str, deadline: Deadline) -> Result<Arc<Collection>, ApiError> {
        if let Some(found) = self.map().await?.collection(name) {
            return Ok(Arc::clone(found));
        }
        self.refresh_exactly(deadline).await?;
        self.map().await?.collection(name).cloned().ok_or_else(|| unknown_collection(name))
    }

    /// The client of a node.
    pub(crate) fn client(&self, address: &str) -> Result<Arc<NodeClient>, ApiError> {
        self.nodes.get(address)
    }

    /// Clients of those replicas of `group` whose addresses are known.
    pub(crate) fn replicas(&self, map: &ClusterMap, group: GroupId) -> Vec<Arc<NodeClient>> {
        let addresses = map.replicas(group).iter().filter_map(|id| map.address(*id));
        addresses.filter_map(|address| self.nodes.get(address).ok()).collect()
    }

    /// Who leads `group`, if known.
    pub(crate) fn leader(&self, group: GroupId) -> Option<Leader> {
        self.leaders.borrow().of(group).cloned()
    }

    /// A replica pointed to another one.
    pub(crate) fn pointed(&self, group: GroupId, to: &LeaderAddress) {
        self.leaders.send_modify(|leaders| leaders.pointed(group, to));
    }

    /// A replica does not lead, or cannot be reached.
    pub(crate) fn doubt(&self, group: GroupId, node: NodeId) {
        self.leaders.send_modify(|leaders| leaders.doubt(group, node));
    }

    /// Returns when another node than `from` is known to lead `group` in a later term than `term`.
    pub(crate) async fn leader_moved(&self, group: GroupId, from: NodeId, term: u64) {
        let mut leaders = self.leaders.subscribe();
        let moved = |l: &Leader| l.term > term && l.node_id.is_some_and(|n| n != from);
        if leaders.wait_for(|l| l.of(group).is_some_and(moved)).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Asks every node for news; what cannot be reached is left out. Callers share one run.
    pub(crate) async fn refresh(&self) {
        let run = async {
            self.ask_all().await;
            Ok::<_, std::convert::Infallible>(())
        };
        match self.loose.run(run).await {
            Ok(()) => {}
            Err(never) => match never {},
        }
    }

    /// After this the map is at least as new as when the call began.
    pub(crate) async fn refresh_exactly(&self, deadline: Deadline) -> Result<(), ApiError> {
        let run = async {
            let answer = call_leader(self, METADATA_GROUP, Effect::Read, deadline, |node, _| {
                let request = GetMetadataRequest { linearizable: true, known_version: self.version() };
                async move { node.get_metadata(deadline, request).await }
            });
            self.absorb(answer.await?);
            Ok(())
        };
        deadline.run("reading the metadata", self.exact.run(run)).await?
    }

    /// The map, at this epoch or a later one.
    async fn map_since(&self, epoch: u64, deadline: Deadline) -> Result<Arc<ClusterMap>, ApiError> {
        let map = self.map().await?;
        if map.epoch >= epoch {
            return Ok(map);
        }
        self.refresh().await;
        if self.map().await?.epoch < epoch {
            self.refresh_exactly(deadline).await?;
        }
        self.map().await
    }

    /// Does `work` by the map, of `epoch` or later; once more by a newer one for as long as groups say that slots have
    /// moved and there is time. `work` may be done more than once.
    pub(crate) async fn following_slots<T, F, Fut>(
        &self,
        epoch: u64,
        deadline: Deadline,
        work: F,
    ) -> Result<T, ApiError>
    where
        F: Fn(Arc<ClusterMap>) -> Fut,
        Fut: Future<Output = Result<T, ApiError>>,
    {
        let mut backoff = Backoff::in_cluster();
        loop {
            match work(self.map_since(epoch, deadline).await?).await {
                Err(error) if error.reason == Reason::SlotsMoved => {
                    if !self.refreshed(&mut backoff, deadline).await {
                        return Err(error);
                    }
                }
                done => return done,
            }
        }
    }

    /// Asks for a newer map and waits a little; false if there is no time left.
    pub(crate) async fn refreshed(&self, backoff: &mut Backoff, deadline: Deadline) -> bool {
        let pause = async {
            self.refresh().await;
            backoff.sleep(deadline).await
        };
        deadline.run("slots to move", pause).await.unwrap_or(false)
    }

    fn version(&self) -> u64 {
        self.map.borrow().as_ref().map_or(0, |m| m.version)
    }

    async fn ask_all(&self) {
        let known = self.map.borrow().clone();
        let of_map = || known.iter().flat_map(|m| m.nodes.values().map(|n| n.address.as_str())).collect();
        let addresses: BTreeSet<&str> = of_map();
        if !addresses.is_empty() && self.ask(&addresses).await {
            return;
        }
        // No map yet, or every node of it has moved.
        let seeds: BTreeSet<&str> = self.seeds.iter().map(String::as_str).collect();
        if !self.ask(&seeds).await {
            tracing::debug!(seeds = ?self.seeds, "no shard node answered");
        }
    }

    /// Whether any of them answered.
    async fn ask(&self, addresses: &BTreeSet<&str>) -> bool {
        let clients = addresses.iter().filter_map(|address| self.nodes.get(address).ok());
        let mut answers: FuturesUnordered<_> = clients.map(|client| self.ask_one(client)).collect();
        let mut until = Deadline::after(POLL_DEADLINE);
        let mut any = false;
        while let Ok(Some(answer)) = tokio::time::timeout_at(until.instant(), answers.next()).await {
            if let Ok(answer) = answer {
                any = true;
                self.absorb(answer);
                until = until.within(GRACE);
            }
        }
        any
    }

    async fn ask_one(&self, client: Arc<NodeClient>) -> Result<GetMetadataResponse, CallError> {
        let request = GetMetadataRequest { linearizable: false, known_version: self.version() };
        client.get_metadata(Deadline::after(POLL_DEADLINE), request).await
    }

    /// Takes what is newer.
    fn absorb(&self, answer: GetMetadataResponse) {
        *self.heard.lock() = Some(Instant::now());
        self.leaders.send_if_modified(|leaders| {
            // Counted, not any(): each hint is to be heard.
            answer.leaders.iter().filter(|h| leaders.heard(h.group_id, h.leader_node_id, h.term)).count() > 0
        });
        let Some(metadata) = answer.metadata else { return };
        let map = match ClusterMap::from_metadata(metadata) {
            Ok(map) => map,
            Err(InvalidMap::NotFormed) => return,
            Err(error) => return tracing::warn!(%error, "a node's cluster map makes no sense; it is not used"),
        };
        let taken = self.map.send_if_modified(|known| {
            if known.as_ref().is_some_and(|k| k.version >= map.version || k.cluster_id != map.cluster_id) {
                return false;
            }
            if known.is_none() {
                let (nodes, groups) = (map.nodes.len(), map.groups.len());
                tracing::info!(cluster = map.cluster_id, nodes, groups, "found the cluster");
            }
            *known = Some(Arc::new(map));
            true
        });
        if let Some(map) = self.map.borrow().clone().filter(|_| taken) {
            let seeds = self.seeds.iter().map(String::as_str);
            self.nodes.retain(&map.nodes.values().map(|n| n.address.as_str()).chain(seeds).collect());
        }
    }
}

fn useless(map_is_known: bool, heard: Option<Duration>) -> Option<String> {
    match heard.filter(|_| map_is_known) {
        None => Some("no cluster map yet: no shard node could tell it".to_owned()),
        Some(age) => (age > CUT_OFF).then(|| format!("no shard node has answered for {} s", age.as_secs())),
    }
}

/// `NOT_FOUND` for a collection.
pub(crate) fn unknown_collection(name: &str) -> ApiError {
    ApiError::new(Reason::CollectionNotFound, format!("there is no collection {name:?}")).with("collection", name)
}

/// Lets callers that come while a run is under way share the next one, and only that.
#[derive(Debug, Default)]
struct SingleFlight {
    started: AtomicU64,
    done: tokio::sync::Mutex<u64>,
}

impl SingleFlight {
    /// Returns once a run that began after this call has succeeded: `work`, unless somebody else's did meanwhile.
    async fn run<E>(&self, work: impl Future<Output = Result<(), E>>) -> Result<(), E> {
        let asked = self.started.load(Ordering::SeqCst);
        let mut done = self.done.lock().await;
        if *done > asked {
            return Ok(());
        }
        let ticket = self.started.fetch_add(1, Ordering::SeqCst) + 1;
        work.await?;
        *done = ticket;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use omma_common::tls::Dialer;

    use super::*;
    use omma_proto::internal::v1 as node;

    #[tokio::test]
    async fn callers_share_a_run_that_began_after_they_asked() {
        let flight = Arc::new(SingleFlight::default());
        let runs = Arc::new(AtomicU64::new(0));
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let (flight, runs) = (Arc::clone(&flight), Arc::clone(&runs));
                tokio::spawn(async move {
                    let work = async {
                        tokio::time::sleep(Duration::from_millis(20)).await;
                        runs.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, ()>(())
                    };
                    flight.run(work).await
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap().unwrap();
        }
        assert!((1..=2).contains(&runs.load(Ordering::SeqCst)), "{runs:?}");
    }

    #[tokio::test]
    async fn a_failed_run_counts_for_nobody_else() {
        let flight = SingleFlight::default();
        assert_eq!(flight.run(async { Err(1) }).await, Err(1));
        assert_eq!(flight.run(async { Ok::<_, i32>(()) }).await, Ok(()));
    }

    fn answer(version: u64, cluster: &str) -> GetMetadataResponse {
        let metadata = node::Metadata {
            version,
            cluster_id: cluster.into(),
            nodes: vec![node::Node { node_id: 1, address: "n:1".into(), ..Default::default() }],
            groups: vec![node::Group {
                group_id: 1,
                slots: vec![node::SlotRange { first: 0, last: 4095 }],
                replicas: vec![1],
                ..Default::default()
            }],
            ..Default::default()
        };
        GetMetadataResponse { metadata: Some(metadata), leaders: vec![] }
    }

    #[tokio::test]
    async fn maps_only_grow_newer_and_never_change_cluster() {
        let routing = Routing::new(vec![], Nodes::new(1, Dialer::default(), None));
        for (version, cluster, want) in [(0, "", 0), (5, "a", 5), (4, "a", 5), (9, "b", 5), (6, "a", 6)] {
            routing.absorb(answer(version, cluster));
            assert_eq!(routing.version(), want, "{version} {cluster}");
        }
    }

    #[test]
    fn who_hears_of_no_shard_node_is_useless() {
        let ago = |millis| Some(Duration::from_millis(millis));
        for (known, heard, useful) in
            [(false, None, false), (false, ago(1), false), (true, ago(1), true), (true, ago(10_000), true)]
        {
            assert_eq!(useless(known, heard).is_none(), useful, "{known} {heard:?}");
        }
        assert_eq!(useless(true, ago(12_345)).as_deref(), Some("no shard node has answered for 12 s"));
    }

    #[tokio::test]
    async fn without_a_map_the_cluster_is_forming() {
        let routing = Routing::new(vec!["127.0.0.1:1".into()], Nodes::new(1, Dialer::default(), None));
        assert_eq!(routing.map().await.unwrap_err().reason, Reason::ClusterForming);
    }
}
