//! Shard groups and nodes are added and taken away while clients write, read and search: nothing is lost, doubled, missed or
//! repeated, and no read fails.
//!
//! ```text
//! cargo build --workspace --bins
//! cargo test -p omma-integration-tests --test slots -- --ignored --nocapture
//! ```

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_integration_tests::client::{Client, by_vector, request_id, retrying};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::convergence::{Shape, image_count, not_converged};
use omma_integration_tests::note;
use omma_integration_tests::replicas::node_status;
use omma_integration_tests::storm::after::{Recall, any_replica_agrees, read_all};
use omma_integration_tests::storm::load::{Load, LoadOptions};
use omma_integration_tests::storm::values;
use omma_integration_tests::vectors::seed;
use omma_proto::v1::{
    Consistency, DeleteImagesRequest, DrainNodeRequest, GetImageRequest, ListMovesRequest, NodeState,
    PauseMovesRequest, PutEffect, PutImagesRequest, PutImagesResponse, Query, RemoveNodeRequest, ResumeMovesRequest,
    SearchRequest, SetGroupCountRequest,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

const COLLECTION: &str = "slots";
/// For the groups to be as wanted; the machine may be busy with other things.
const REST: Duration = Duration::from_secs(150);
/// How much of recall moves may cost.
const RECALL_LOSS: f64 = 0.005;
/// Images of one request, in many slots.
const BATCH: usize = 20;

async fn set_groups(client: &Client, groups: u32) -> Result<()> {
    retrying("SetGroupCount", REST, || {
        let mut client = client.cluster();
        async move { client.set_group_count(SetGroupCountRequest { group_count: groups }).await }
    })
    .await?;
    Ok(())
}

/// Waits until there are `groups` groups with equal shares of the slots and nothing moves.
async fn shared(cluster: &Cluster, groups: usize) -> Result<()> {
    let begin = Instant::now();
    cluster
        .wait_until("shared", REST, async |cluster: &Cluster, status| {
            let moves = cluster.client()?.cluster().list_moves(ListMovesRequest::default()).await?.into_inner();
            ensure!(moves.slot_moves.is_empty(), "{:?}", moves.slot_moves);
            let slots: Vec<u32> = status.groups.iter().filter(|g| g.group_id != 0).map(|g| g.slot_count).collect();
            ensure!(slots.len() == groups && slots.iter().sum::<u32>() == 4096, "{slots:?}");
            ensure!(slots.iter().max().unwrap_or(&0) - slots.iter().min().unwrap_or(&0) <= 1, "{slots:?}");
            Ok(())
        })
        .await?;
    note!("{groups} groups after {:.1?}", begin.elapsed());
    Ok(())
}

/// Waits until no replica moves, and each node has some.
async fn settled(cluster: &Cluster) -> Result<()> {
    cluster
        .wait_until("settled", REST, async |cluster: &Cluster, status| {
            let moves = cluster.client()?.cluster().list_moves(ListMovesRequest::default()).await?.into_inner();
            ensure!(moves.moves.is_empty(), "{:?}", moves.moves);
            let replicas: Vec<u32> = status.nodes.iter().map(|node| node.replica_count).collect();
            ensure!(replicas.iter().all(|count| *count > 0), "{replicas:?}");
            note!("replicas of each node: {replicas:?}");
            Ok(())
        })
        .await
}

/// Reads without a second try: what each of them must be answered.
struct Reader {
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
    task: JoinHandle<Result<Duration>>,
}

impl Reader {
    /// Reads the `present` images, by id and by their embeddings, at every level.
    fn begin(client: &Client, seed: u64, present: Vec<(String, u64)>) -> Self {
        let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (client, stopped, count) = (client.clone(), stop.clone(), reads.clone());
        let task = tokio::spawn(async move {
            let levels = [Consistency::Linearizable, Consistency::Any, Consistency::Session];
            let mut longest = Duration::ZERO;
            for ((id, value), level) in present.iter().cycle().zip(levels.into_iter().cycle()) {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let begin = Instant::now();
                read(&client, seed, (id, *value), level).await.with_context(|| format!("{id} at {level:?}"))?;
                longest = longest.max(begin.elapsed());
                count.fetch_add(2, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(longest)
        });
        Self { stop, reads, task }
    }

    async fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let longest = self.task.await??;
        note!("{} reads, none failed; the longest two took {longest:.2?}", self.reads.load(Ordering::Relaxed));
        Ok(())
    }
}

async fn read(client: &Client, seed: u64, (id, value): (&str, u64), level: Consistency) -> Result<()> {
    let collection = COLLECTION.to_owned();
    let query = Query { target: Some(by_vector(&values::vector(seed, value))), k: 5, min_score: None, filter: None };
    let search = SearchRequest {
        collection: collection.clone(),
        query: Some(query),
        consistency: level.into(),
        ..Default::default()
    };
    let hits = client.searches().search(search).await?.into_inner().hits;
    let distinct: BTreeSet<_> = hits.iter().map(|hit| &hit.id).collect();
    ensure!(distinct.len() == hits.len(), "an image is a hit twice: {hits:?}");
    ensure!(hits.first().is_some_and(|hit| hit.id == id), "it is not found: {hits:?}");
    let get = GetImageRequest { collection, id: id.to_owned(), consistency: level.into(), ..Default::default() };
    client.images().get_image(get).await?;
    Ok(())
}

/// Writes that were acknowledged, to be sent again once slots have moved.
struct Repeats {
    puts: Vec<PutImagesRequest>,
    deletes: Vec<DeleteImagesRequest>,
    /// Images that are there afterwards, and their values.
    left: Vec<(String, u64)>,
}

impl Repeats {
    /// Puts batches, then changes half of each and deletes the rest.
    async fn begin(client: &Client, seed: u64) -> Result<Self> {
        let collection = COLLECTION.to_owned();
        let (mut puts, mut deletes, mut left) = (Vec::new(), Vec::new(), Vec::new());
        for batch in 0..5usize {
            let id = |i: usize| format!("batch-{batch}-{i}");
            let value = |i: usize, round: usize| (1 << 40) + ((batch * BATCH + i) * 2 + round) as u64;
            let images = |round, to| (0..to).map(|i| values::image(seed, &id(i), value(i, round))).collect();
            let put = |images| PutImagesRequest { collection: collection.clone(), images, request_id: request_id() };
            let first = put(images(0, BATCH));
            ensure!(effects(client, &first).await? == [PutEffect::Created; BATCH]);
            let second = put(images(1, BATCH / 2));
            ensure!(effects(client, &second).await? == [PutEffect::Replaced; BATCH / 2]);
            let ids = (BATCH / 2..BATCH).map(id).collect();
            let delete = DeleteImagesRequest { collection: collection.clone(), ids, request_id: request_id() };
            ensure!(
                client.images().delete_images(delete.clone()).await?.into_inner().deleted_count == BATCH as u32 / 2
            );
            puts.push(first);
            puts.push(second);
            deletes.push(delete);
            left.extend((0..BATCH / 2).map(|i| (id(i), value(i, 1))));
        }
        Ok(Self { puts, deletes, left })
    }

    /// Everything once more: answered as at first, and without effect.
    async fn again(&self, client: &Client) -> Result<()> {
        for put in &self.puts {
            let expected = if put.images.len() == BATCH { PutEffect::Created } else { PutEffect::Replaced };
            let got = effects(client, put).await?;
            ensure!(got.iter().all(|effect| *effect == expected), "{got:?} instead of {expected:?}");
        }
        for delete in &self.deletes {
            let got = client.images().delete_images(delete.clone()).await?.into_inner().deleted_count;
            ensure!(got == BATCH as u32 / 2, "{got} deleted");
        }
        for (at, put) in self.puts.iter().enumerate() {
            for (i, image) in put.images.iter().enumerate() {
                let there = client.get(COLLECTION, &image.id).await?;
                ensure!(there.is_some() == (i < BATCH / 2), "{} was brought back, or lost", image.id);
                let same = there.is_none_or(|there| there.attributes == image.attributes);
                ensure!(same == (at % 2 == 1 || i >= BATCH / 2), "{} is not what was put last", image.id);
            }
        }
        Ok(())
    }
}

async fn effects(client: &Client, put: &PutImagesRequest) -> Result<Vec<PutEffect>> {
    let answer: PutImagesResponse = client.images().put_images(put.clone()).await?.into_inner();
    ensure!(answer.results.iter().all(|r| r.error.is_none()), "{answer:?}");
    Ok(answer.results.iter().map(|r| r.effect()).collect())
}

async fn start(name: &str) -> Result<(Cluster, Vec<Client>, u64)> {
    let options = ClusterOptions { coordinators: 2, ..ClusterOptions::named(name) };
    // So little log is kept that replicas that were away need snapshots.
    let cluster = Cluster::start(options.shard_flags(&["--snapshot-every", "300", "--keep-logs", "100"])).await?;
    let clients = (0..cluster.coordinators()).map(|i| cluster.client_of(i)).collect::<Result<Vec<_>>>()?;
    clients[0].create(COLLECTION, Some(values::DIMENSION as u32)).await?;
    Ok((cluster, clients, seed(name)))
}

/// What does not change while slots move.
struct Before {
    recall: Recall,
    measured: f64,
    repeats: Repeats,
    still: Vec<(String, u64)>,
}

impl Before {
    async fn prepare(client: &Client, seed: u64) -> Result<Self> {
        let recall = Recall::prepare(client, COLLECTION, seed).await?;
        let measured = recall.measure(std::iter::empty()).await?;
        let still: Vec<_> = (0..300u64).map(|i| (format!("still-{i}"), (1 << 41) + i)).collect();
        for images in still.chunks(100) {
            let images = images.iter().map(|(id, value)| values::image(seed, id, *value)).collect();
            client.store(COLLECTION, images, REST).await?;
        }
        Ok(Self { recall, measured, repeats: Repeats::begin(client, seed).await?, still })
    }

    /// After everything: replicas equal, the history in order, every image once.
    async fn check(&self, cluster: &Cluster, clients: &[Client], load: Load, shape: Shape) -> Result<()> {
        load.wait_for(50, REST).await?;
        let seen = load.finish().await?;
        let status = cluster
            .wait_until("equal", REST, async |_: &Cluster, status| {
                not_converged(&status, shape).map_or(Ok(status), |why| Err(anyhow::anyhow!(why)))
            })
            .await?;
        let present = read_all(&clients[0], COLLECTION, &seen).await?;
        seen.history.check()?;
        let violations = seen.violations();
        ensure!(violations.is_empty(), "{} violations:\n  {}", violations.len(), violations.join("\n  "));
        let expected = present.len() + Recall::IMAGES + self.still.len() + self.repeats.left.len();
        ensure!(image_count(&status) == expected as u64, "{} images of {expected}", image_count(&status));
        any_replica_agrees(&clients[0], COLLECTION, &seen, &present).await?;
        let mut others = present;
        others.extend(self.still.iter().cloned());
        others.extend(self.repeats.left.iter().cloned());
        let measured = self.recall.measure(&others).await?;
        ensure!(measured >= self.measured - RECALL_LOSS, "recall@10 was {:.4} and is {measured:.4}", self.measured);
        note!("{:?}, {:?}", seen.history.tally(), seen.counts());
        Ok(())
    }
}

/// Drains nodes and takes them out of the cluster.
async fn leave(cluster: &Cluster, client: &Client, nodes: [usize; 2]) -> Result<()> {
    let begin = Instant::now();
    for node in nodes {
        let node = cluster.shard_address(node)?.to_owned();
        retrying("DrainNode", REST, || {
            let (mut client, node) = (client.cluster(), node.clone());
            async move { client.drain_node(DrainNodeRequest { node }).await }
        })
        .await?;
    }
    cluster
        .wait_until("drained", REST, async |cluster: &Cluster, status| {
            for node in nodes {
                let state = node_status(cluster, &status, node)?.state();
                ensure!(state == NodeState::Drained, "shard node {node} is {state:?}");
            }
            Ok(())
        })
        .await?;
    for node in nodes {
        cluster.kill(node)?;
        let node = cluster.shard_address(node)?.to_owned();
        client.cluster().remove_node(RemoveNodeRequest { node }).await?;
    }
    note!("two nodes drained and gone after {:.1?}", begin.elapsed());
    Ok(())
}

/// From 3 nodes and 3 groups to 5 and 6, and back.
#[tokio::test(flavor = "multi_thread")]
async fn groups_and_nodes_come_and_go_under_load() -> Result<()> {
    let (mut cluster, clients, seed) = start("slots").await?;
    let before = Before::prepare(&clients[0], seed).await?;
    let load = Load::begin(&clients, &LoadOptions { collection: COLLECTION.to_owned(), seed, clients: 4 });
    let reader = Reader::begin(&clients[1], seed, before.still.clone());
    let joined = [cluster.add_node()?, cluster.add_node()?];
    set_groups(&clients[0], 6).await?;
    shared(&cluster, 6).await?;
    settled(&cluster).await?;
    before.repeats.again(&clients[1]).await.context("after 6 groups")?;
    set_groups(&clients[0], 3).await?;
    shared(&cluster, 3).await?;
    before.repeats.again(&clients[1]).await.context("after 3 groups")?;
    leave(&cluster, &clients[0], joined).await?;
    reader.finish().await?;
    before.check(&cluster, &clients, load, cluster.shape()).await
}

/// As above, while two nodes join; and whoever runs the job dies in the middle of it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; see the file's head"]
async fn groups_and_nodes_come_while_the_driver_dies() -> Result<()> {
    let (mut cluster, clients, seed) = start("slots_and_nodes").await?;
    let before = Before::prepare(&clients[0], seed).await?;
    let load = Load::begin(&clients, &LoadOptions { collection: COLLECTION.to_owned(), seed, clients: 4 });
    cluster.add_node()?;
    cluster.add_node()?;
    set_groups(&clients[0], 6).await?;
    for round in 0..3 {
        cluster
            .wait_until("moving", REST, async |cluster: &Cluster, _| {
                let moves = cluster.client()?.cluster().list_moves(ListMovesRequest::default()).await?.into_inner();
                ensure!(!moves.slot_moves.is_empty(), "no slots are on their way");
                Ok(())
            })
            .await?;
        let status = cluster.status().await?;
        let driver = cluster.node_by_id(&status, status.groups[0].leader_node_id)?;
        cluster.kill(driver)?;
        load.wait_for(20, REST).await.with_context(|| format!("round {round}"))?;
        cluster.restart(driver)?;
        if round == 0 {
            pause(&clients[0]).await?;
            load.wait_for(50, REST).await.context("while moves are paused")?;
            resume(&clients[0]).await?;
        }
        set_groups(&clients[0], 6 + round).await?;
    }
    shared(&cluster, 8).await?;
    set_groups(&clients[0], 3).await?;
    shared(&cluster, 3).await?;
    before.repeats.again(&clients[1]).await?;
    before.check(&cluster, &clients, load, Shape { nodes: 5, ..cluster.shape() }).await
}

async fn pause(client: &Client) -> Result<()> {
    retrying("PauseMoves", REST, || {
        let mut client = client.cluster();
        async move { client.pause_moves(PauseMovesRequest {}).await }
    })
    .await
    .map(drop)
}

async fn resume(client: &Client) -> Result<()> {
    retrying("ResumeMoves", REST, || {
        let mut client = client.cluster();
        async move { client.resume_moves(ResumeMovesRequest {}).await }
    })
    .await
    .map(drop)
}
