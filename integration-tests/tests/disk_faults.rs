//! Damaged files: noticed, never served, and made good where there is another copy; a clear refusal where there is none.

mod damage;
mod unreadable;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use omma_integration_tests::client::{Client, by_vector, ids, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::convergence::{digests, image_count};
use omma_integration_tests::ingest::{Ingest, IngestOptions};
use omma_integration_tests::note;
use omma_integration_tests::process::Process;
use omma_integration_tests::replicas::missing;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_shard::store::{Batch, Store};
use rand::Rng;
use tokio::time::Instant;

const COLLECTION: &str = "faults";
const DIMENSION: usize = 32;
const PATIENCE: Duration = Duration::from_secs(90);

/// Files below `folder` whose paths contain `part`, the largest first.
fn files(folder: &Path, part: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            match path.is_dir() {
                true => folders.push(path),
                false if path.display().to_string().contains(part) => found.push((path.metadata()?.len(), path)),
                false => {}
            }
        }
    }
    found.sort();
    Ok(found.into_iter().rev().map(|(_, path)| path).collect())
}

/// Flips a bit in every stretch of `stretch` bytes of a file.
fn flip(file: &Path, stretch: usize, rng: &mut impl Rng) -> Result<()> {
    let mut bytes = std::fs::read(file)?;
    ensure!(!bytes.is_empty(), "{} is empty", file.display());
    for stretch in bytes.chunks_mut(stretch) {
        let at = rng.random_range(0..stretch.len());
        stretch[at] ^= 1 << rng.random_range(0..8);
    }
    Ok(std::fs::write(file, bytes)?)
}

async fn ingest(cluster: &Cluster, client: &Client, seed: u64) -> Result<Ingest> {
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let options = IngestOptions { collection: COLLECTION.to_owned(), dimension: DIMENSION, writers: 4, seed };
    let ingest = Ingest::begin(client, &options);
    ingest.wait_for(300, PATIENCE).await?;
    ensure!(cluster.nodes() == 3);
    Ok(ingest)
}

fn id_at(status: &omma_proto::v1::GetClusterStatusResponse, address: &str) -> Option<u64> {
    let at = status.nodes.iter().filter(|n| n.address == address && n.reachable);
    at.map(|n| n.node_id).next()
}

fn size(files: &[PathBuf]) -> Result<u64> {
    files.iter().map(|file| Ok(std::fs::metadata(file)?.len())).sum()
}

/// A process that has ended by itself says so, and no signal has ended it.
fn ended_in_order(process: &Process, because: &str) -> Result<()> {
    let (status, said) = (process.ended().context("it runs")?, process.log_tail(4_000));
    ensure!(status.code() == Some(1) && said.contains(because), "{status}: {said}");
    Ok(())
}

/// Restarts a node, also when it ends by itself because it has met damage, until it is another node with all replicas.
async fn starts_anew(cluster: &Cluster, node: usize, before: u64) -> Result<()> {
    let begin = Instant::now();
    let mut ended = 0;
    cluster.restart(node)?;
    loop {
        let process = cluster.shard_process(node)?;
        if process.ended().is_some() {
            ended_in_order(process, "damaged")?;
            ended += 1;
            process.kill();
            process.start()?;
        }
        let status = cluster.status().await?;
        let address = cluster.shard_address(node)?;
        let now = status.nodes.iter().find(|n| n.address == address && n.node_id != before && n.replica_count == 3);
        if now.is_some() && status.nodes.len() == 3 {
            note!("shard node {node} is another one after {:.1?}, {ended} ends by itself", begin.elapsed());
            return Ok(());
        }
        if begin.elapsed() > PATIENCE {
            bail!("not rebuilt: {:?}\n{}", status.nodes, process.log_tail(8_000));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "slow; see CONTRIBUTING.md"]
async fn a_node_with_damaged_stores_starts_anew_and_is_rebuilt() -> Result<()> {
    let seed = seed("damaged_stores");
    let mut rng = generator(seed, 0);
    let flags = ["--snapshot-every", "60", "--keep-logs", "20"];
    let cluster = Cluster::start(ClusterOptions::named("damaged_stores").shard_flags(&flags)).await?;
    let client = cluster.client()?;
    let ingest = ingest(&cluster, &client, seed).await?;
    // A log whose second half would silently be forgotten, and entries or records that are met when they are read.
    for (node, store, part, stretch) in [(1, "raft", "/metadata/log_", usize::MAX), (2, "state", "/slabs/", 16 << 10)] {
        let before = id_at(&cluster.status().await?, cluster.shard_address(node)?).context("not in the status")?;
        cluster.kill(node)?;
        let damaged = files(&cluster.data_folder(node)?.join(store), part)?;
        let wanted = if store == "raft" { 1 } else { damaged.len() };
        for file in damaged.iter().take(wanted).filter(|f| f.metadata().is_ok_and(|m| m.len() > 0)) {
            flip(file, stretch, &mut rng)?;
        }
        starts_anew(&cluster, node, before).await?;
        let aside = cluster.data_folder(node)?.join(format!("damaged-{before:x}"));
        ensure!(aside.join("node.json").exists(), "the damaged data are not in {}", aside.display());
        ingest.wait_for(50, PATIENCE).await?;
    }
    let acknowledged = ingest.finish().await?;
    let status = cluster.wait_converged(PATIENCE).await?;
    ensure!(image_count(&status) == acknowledged.len() as u64, "{} images", image_count(&status));
    let all: Vec<_> = acknowledged.iter().map(|a| a.id.clone()).collect();
    let lost = missing(&cluster, COLLECTION, &all).await?;
    ensure!(lost.is_empty(), "{} acknowledged images are missing: {:?}", lost.len(), &lost[..lost.len().min(10)]);
    note!("{} acknowledged images, on every replica", all.len());
    Ok(())
}

/// Opening the store of the logs does not meet this: the metadata replica does, the first that is started.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_cannot_read_its_vote_in_the_metadata_group_starts_anew() -> Result<()> {
    let seed = seed("damaged_vote");
    let cluster = Cluster::start(ClusterOptions::named("damaged_vote")).await?;
    let client = cluster.client()?;
    let ingest = ingest(&cluster, &client, seed).await?;
    let vote = unreadable::vote_key(0);
    // Past the store's own checksums, then the file that it lies in.
    for node in [1, 2] {
        let before = id_at(&cluster.status().await?, cluster.shard_address(node)?).context("not in the status")?;
        let process = cluster.shard_process(node)?;
        process.terminate(PATIENCE)?;
        let data = cluster.data_folder(node)?;
        match node {
            1 => damage_last(&Store::open(&data.join("raft"), 16 << 20, Duration::from_secs(60))?, "log", &vote)?,
            _ => unreadable::make(&data.join("raft"), "log", &vote)?,
        }
        cluster.restart(node)?;
        let begin = Instant::now();
        while process.ended().is_none() {
            ensure!(begin.elapsed() < PATIENCE, "it runs without its vote: {}", process.log_tail(4_000));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ended_in_order(process, "start the node again; it joins as a new one")?;
        ensure!(data.join("damaged.json").exists(), "the next start does not know of it");
        process.kill();
        starts_anew(&cluster, node, before).await?;
        let aside = data.join(format!("damaged-{before:x}"));
        ensure!(aside.join("raft").exists(), "the damaged data are not in {}", aside.display());
        ingest.wait_for(50, PATIENCE).await?;
    }
    let acknowledged = ingest.finish().await?;
    let status = cluster.wait_converged(PATIENCE).await?;
    ensure!(image_count(&status) == acknowledged.len() as u64, "{} images", image_count(&status));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the store may keep all of it in memory: damage is met once something is read from the files, or never"]
async fn a_node_whose_files_are_cut_off_while_it_runs_ends_in_order_and_starts_anew() -> Result<()> {
    let seed = seed("cut_off");
    let mut rng = generator(seed, 1);
    // What is in the cache is not looked for in the files.
    let options = ClusterOptions::named("cut_off").shard_flags(&["--cache-mib", "1"]);
    let cluster = Cluster::start(options).await?;
    let client = cluster.client()?;
    let ingest = ingest(&cluster, &client, seed).await?;
    let before = id_at(&cluster.status().await?, cluster.shard_address(2)?).context("not in the status")?;
    let state = cluster.data_folder(2)?.join("state");
    // What is in no file yet is not cut off with it; and searches ask leaders.
    let leads = async || {
        let status = cluster.status().await?;
        anyhow::Ok(status.groups.iter().any(|group| group.group_id != 0 && group.leader_node_id == before))
    };
    let begin = Instant::now();
    while size(&files(&state, "/state/slabs/")?)? < 2 << 20 || !leads().await? {
        ensure!(begin.elapsed() < PATIENCE, "the node writes nothing, or leads nothing");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for file in files(&state, "/state/slabs/")? {
        std::fs::File::options().write(true).open(file)?.set_len(0)?;
    }
    let begin = Instant::now();
    let process = cluster.shard_process(2)?;
    while process.ended().is_none() {
        ensure!(begin.elapsed() < PATIENCE, "the damage is not noticed: {}", process.log_tail(4_000));
        // Ingest adds at the end and reads nothing older. These may fail: what they read is damaged. The node may lead
        // nothing any more, so it is asked itself, too.
        let found = client.search(COLLECTION, by_vector(&unit_vector(&mut rng, DIMENSION)), 100).await;
        if let Ok(hits) = found {
            let ids: Vec<String> = ids(&hits).into_iter().map(str::to_owned).collect();
            drop(missing(&cluster, COLLECTION, &ids).await);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    note!("noticed after {:.1?}", begin.elapsed());
    ended_in_order(process, "start the node again; it joins as a new one")?;
    process.kill();
    starts_anew(&cluster, 2, before).await?;
    ingest.wait_for(50, PATIENCE).await?;
    let acknowledged = ingest.finish().await?;
    let status = cluster.wait_converged(PATIENCE).await?;
    ensure!(image_count(&status) == acknowledged.len() as u64, "{} images", image_count(&status));
    Ok(())
}

/// Flips a bit of the last value whose key begins so, past the store's own checksums.
fn damage_last(store: &Store, table: &str, prefix: &[u8]) -> Result<()> {
    let table = store.table(table)?;
    let (key, value) = table.prefix(prefix).last().with_context(|| format!("nothing at {prefix:?}"))??;
    let mut value = value.to_vec();
    let middle = value.len() / 2;
    value[middle] ^= 0x10;
    let mut batch = Batch::default();
    batch.insert(key, value);
    table.apply(batch)?;
    Ok(store.flush()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_damaged_replica_is_built_again() -> Result<()> {
    let seed = seed("damaged_replicas");
    let cluster = Cluster::start(ClusterOptions::named("damaged_replicas")).await?;
    let client = cluster.client()?;
    let ingest = ingest(&cluster, &client, seed).await?;
    let id = id_at(&cluster.status().await?, cluster.shard_address(2)?).context("not in the status")?;
    cluster.shard_process(2)?.terminate(PATIENCE)?;
    let data = cluster.data_folder(2)?;
    let open = |name: &str| Store::open(&data.join(name), 16 << 20, Duration::from_secs(60));
    // An entry of the Raft log, a digest, and a record, of one group each.
    let entries = [&1u32.to_be_bytes()[..], &[3]].concat();
    damage_last(&open("raft")?, "log", &entries)?;
    damage::lead_astray(&open("state")?, 2)?;
    damage_last(&open("state")?, "state.3.0", b"v")?;
    let begin = Instant::now();
    cluster.restart(2)?;
    let process = cluster.shard_process(2)?;
    let given_up = || Ok::<_, anyhow::Error>(process.log()?.matches("is given up and built again").count());
    while given_up()? < 3 {
        ensure!(begin.elapsed() < PATIENCE && process.ended().is_none(), "{}", process.log_tail(8_000));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    note!("three copies given up {:.1?} after the restart", begin.elapsed());
    ingest.wait_for(50, PATIENCE).await?;
    let acknowledged = ingest.finish().await?;
    let status = cluster.wait_converged(PATIENCE).await?;
    note!("equal {:.1?} after the restart", begin.elapsed());
    ensure!(given_up()? == 3, "they were given up {} times", given_up()?);
    ensure!(id_at(&status, cluster.shard_address(2)?) == Some(id), "one group's damage made another node of it");
    ensure!(image_count(&status) == acknowledged.len() as u64, "{} images", image_count(&status));
    let all: Vec<_> = acknowledged.iter().map(|a| a.id.clone()).collect();
    let lost = missing(&cluster, COLLECTION, &all).await?;
    ensure!(lost.is_empty(), "{} acknowledged images are missing", lost.len());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_copy_is_never_thrown_away_and_its_graph_is_built_again() -> Result<()> {
    let seed = seed("only_copy");
    let mut rng = generator(seed, 0);
    let cluster = Cluster::start(ClusterOptions::single("only_copy")).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let vectors: Vec<Vec<f32>> = (0..2_560).map(|_| unit_vector(&mut rng, DIMENSION)).collect();
    for (n, batch) in vectors.chunks(256).enumerate() {
        let image = |(i, v): (usize, &Vec<f32>)| vector_image(&format!("i{}", n * 256 + i), v.clone());
        client.put(COLLECTION, batch.iter().enumerate().map(image).collect()).await?;
    }
    let state = cluster.data_folder(0)?.join("state");
    let begin = Instant::now();
    while !cluster.shard_process(0)?.log()?.contains("checkpoint written") {
        ensure!(begin.elapsed() < PATIENCE, "no checkpoint was written");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = digests(&cluster.status().await?);
    cluster.kill(0)?;

    let checkpoint = files(&state, "/checkpoints/")?.remove(0);
    flip(&checkpoint, 4096, &mut rng)?;
    cluster.restart(0)?;
    cluster.wait_ready(PATIENCE).await?;
    let process = cluster.shard_process(0)?;
    ensure!(process.log()?.contains("checkpoint unusable"), "{}", process.log_tail(4_000));
    for (i, vector) in vectors.iter().enumerate().step_by(101) {
        let found = client.search(COLLECTION, by_vector(vector), 1).await?;
        ensure!(ids(&found) == [format!("i{i}")], "i{i} is not found: {found:?}");
    }
    ensure!(digests(&cluster.status().await?) == before, "other contents");
    cluster.kill(0)?;

    // In the middle of the log of a store, where it is certain to have been acknowledged.
    let log = files(&cluster.data_folder(0)?.join("raft"), "/metadata/log_")?.remove(0);
    let whole = std::fs::read(&log)?;
    let mut bytes = whole.clone();
    bytes[12] ^= 4;
    std::fs::write(&log, bytes)?;
    process.start()?;
    let begin = Instant::now();
    while process.ended().is_none() {
        ensure!(begin.elapsed() < PATIENCE, "a node with a damaged log and no peers serves");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let said = process.log_tail(2_000);
    for part in [&log.display().to_string(), "the cluster may not have everything", "omma restore", "mv "] {
        ensure!(said.contains(part), "it does not say {part:?}: {said}");
    }
    process.kill();
    std::fs::write(&log, whole)?;
    cluster.restart(0)?;
    cluster.wait_ready(PATIENCE).await?;
    ensure!(digests(&cluster.status().await?) == before, "a refusal must change nothing");
    Ok(())
}
