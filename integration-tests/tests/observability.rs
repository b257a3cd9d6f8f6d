//! What those who watch a cluster see: metrics, probes, logs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_integration_tests::admin::{self, Sample, sum};
use omma_integration_tests::client::{by_vector, picture_image, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::repository;
use omma_integration_tests::metric_names::{documented, exposed, spoken_of};
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, png};
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::v1::query::Target;
use tokio::time::Instant;

const DIMENSION: usize = 16;
const PATIENCE: Duration = Duration::from_secs(60);
/// Only shown once there was one.
const SOMETIMES: &[&str] = &["omma_checkpoint_age_seconds"];

/// Waits until `check` is content.
async fn until<T>(what: &str, check: impl AsyncFn() -> Result<T>) -> Result<T> {
    let begin = Instant::now();
    loop {
        match check().await {
            Ok(found) => return Ok(found),
            Err(why) if begin.elapsed() > PATIENCE => return Err(why.context(format!("not {what} in {PATIENCE:?}"))),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn all_samples(cluster: &Cluster) -> Result<Vec<Sample>> {
    let mut all = Vec::new();
    for port in cluster.admin_ports() {
        all.extend(admin::metrics(port).await?);
    }
    Ok(all)
}

/// Writes and searches by picture and by embedding, and one refused request.
async fn use_it(cluster: &Cluster, images: usize) -> Result<()> {
    let client = cluster.client()?;
    client.create("vectors", Some(DIMENSION as u32)).await?;
    client.create("pictures", None).await?;
    let mut rng = generator(seed("observability"), 1);
    let vectors: Vec<Vec<f32>> = (0..images).map(|_| unit_vector(&mut rng, DIMENSION)).collect();
    for (i, vector) in vectors.iter().enumerate() {
        client.store("vectors", vec![vector_image(&format!("v{i}"), vector.clone())], PATIENCE).await?;
    }
    for vector in vectors.iter().take(20) {
        client.search("vectors", by_vector(vector), 5).await?;
    }
    let picture = png(&draw(3, 200, 200))?;
    client.store("pictures", vec![picture_image("secret-name", picture.clone())], PATIENCE).await?;
    client.search("pictures", Target::Picture(picture), 5).await?;
    ensure!(client.search("nowhere", by_vector(&vectors[0]), 5).await.is_err(), "there is no such collection");
    Ok(())
}

fn numbers_make_sense(samples: &[Sample], images: f64) -> Result<()> {
    let get = |name: &str, labels: &[(&str, &str)]| sum(samples, name, labels).with_context(|| format!("no {name}"));
    for group in ["0", "1", "2", "3"] {
        let leaders = get("omma_raft_leader", &[("group", group)])?;
        ensure!(leaders == 1.0, "group {group} has {leaders} leaders");
        let lag = get("omma_raft_follower_lag_entries", &[("group", group)])?;
        ensure!(lag == 0.0, "group {group} lags by {lag}");
    }
    ensure!(get("omma_images", &[])? == 3.0 * images, "{:?} images", get("omma_images", &[]));
    let search = ("rpc", "omma.v1.SearchService/Search");
    ensure!(get("omma_rpc_requests_total", &[search, ("code", "OK")])? >= 21.0, "searches are not counted");
    let gone = get("omma_rpc_errors_total", &[search, ("reason", "COLLECTION_NOT_FOUND")])?;
    ensure!(gone == 1.0, "{gone} failed searches");
    ensure!(get("omma_rpc_in_flight", &[search])? == 0.0, "a search never ended");
    ensure!(get("omma_encoder_pictures_total", &[("outcome", "ok")])? == 2.0, "pictures are not counted");
    ensure!(get("omma_log_fsync_seconds_count", &[])? > 0.0, "fsyncs are not counted");
    ensure!(get("omma_proposals_total", &[("outcome", "OK")])? >= images, "proposals are not counted");
    // Each of three groups and the metadata group compares two replicas.
    let compared = samples.iter().filter(|s| s.name == "omma_replica_differs").count();
    ensure!(compared == 8, "{compared} replicas were compared");
    ensure!(get("omma_replica_differs", &[])? == 0.0, "replicas differ");
    let (found, expected) = (get("omma_recall_found_total", &[])?, get("omma_recall_expected_total", &[])?);
    ensure!(expected > 0.0 && found >= 0.95 * expected, "recall: {found} of {expected}");
    ensure!(get("omma_store_bytes", &[])? > 0.0 && get("omma_process_resident_memory_bytes", &[])? > 1e6, "no sizes");
    ensure!(get("omma_cluster_map_known", &[])? == 1.0, "no map");
    Ok(())
}

/// Documentation, dashboard and alerts speak of metrics that there are.
async fn names_are_true(cluster: &Cluster) -> Result<()> {
    let mut there = BTreeSet::new();
    for port in cluster.admin_ports() {
        there.extend(exposed(port).await?);
    }
    let documented = documented()?;
    let undocumented: Vec<_> = there.difference(&documented).collect();
    ensure!(undocumented.is_empty(), "not in docs/observability.md: {undocumented:?}");
    let sometimes: BTreeSet<String> = SOMETIMES.iter().map(|&name| name.to_owned()).collect();
    let missing: Vec<_> = documented.difference(&there).filter(|name| !sometimes.contains(*name)).collect();
    ensure!(missing.is_empty(), "documented but not exposed: {missing:?}");
    for file in ["deploy/grafana/omma.json", "deploy/prometheus/alerts.yaml"] {
        let used = spoken_of(&std::fs::read_to_string(repository().join(file))?);
        let unknown: Vec<_> = used.difference(&documented).collect();
        ensure!(!used.is_empty() && unknown.is_empty(), "{file} uses what there is not: {unknown:?}");
    }
    note!("{} metrics, all documented", there.len());
    Ok(())
}

/// JSON, at most one line per request, nothing of what users store.
fn logs_are_tidy(cluster: &Cluster, searches: usize) -> Result<()> {
    let mut answered = BTreeMap::<String, usize>::new();
    for node in 0..cluster.nodes() {
        let log = cluster.shard_process(node)?.log()?;
        ensure!(!log.contains("secret-name"), "shard node {node} logs ids");
        ensure!(log.lines().all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()), "not JSON:\n{log}");
    }
    let log = cluster.coordinator_process(0)?.log()?;
    ensure!(!log.contains("secret-name"), "the coordinator logs ids");
    for line in log.lines().filter(|line| line.starts_with('{')) {
        let line: serde_json::Value = serde_json::from_str(line)?;
        if let Some(rpc) = line["fields"]["rpc"].as_str() {
            *answered.entry(rpc.to_owned()).or_default() += 1;
        }
    }
    ensure!(answered.get("Search") == Some(&searches), "one line for each of {searches} searches: {answered:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_shows_what_it_does() -> Result<()> {
    let images = 60;
    let options = ClusterOptions::named("observability").shard_flags(&[
        "--recall-sample",
        "1",
        "--log-json",
        "--log",
        "info,omma_shard=debug",
    ]);
    let options = ClusterOptions {
        coordinator_flags: ["--log-json", "--log", "info,omma_coordinator=debug"].map(str::to_owned).to_vec(),
        ..options
    };
    let cluster = Cluster::start(options).await?;
    use_it(&cluster, images).await?;
    until("what the metrics show", async || numbers_make_sense(&all_samples(&cluster).await?, images as f64 + 1.0))
        .await?;
    names_are_true(&cluster).await?;
    logs_are_tidy(&cluster, 22)
}

/// Startup, liveness and readiness of one admin port.
async fn probes(port: &str) -> Result<[u16; 3]> {
    let mut seen = [0; 3];
    for (status, path) in seen.iter_mut().zip(["/startupz", "/livez", "/readyz"]) {
        *status = admin::get(port, path).await?.0;
    }
    Ok(seen)
}

async fn all_probes(port: &str, wanted: [u16; 3]) -> Result<()> {
    until("probed so", async || {
        let seen = probes(port).await?;
        ensure!(seen == wanted, "probes answer {seen:?}, not {wanted:?}");
        Ok(())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_tell_a_process_from_its_cluster() -> Result<()> {
    let cluster = Cluster::start(ClusterOptions::named("probes")).await?;
    let ports = cluster.admin_ports();
    let coordinator = ports[cluster.nodes()];
    for port in &ports {
        all_probes(port, [200, 200, 200]).await?;
    }
    // A node alone, without any majority: not healthy as a cluster, but alive, and able to answer at ANY.
    cluster.kill(1)?;
    cluster.kill(2)?;
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(4) {
        ensure!(probes(ports[0]).await? == [200, 200, 200], "a node that can serve is not to blame for its cluster");
        ensure!(probes(coordinator).await? == [200, 200, 200], "nor a coordinator");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    // Alive from the first moment on, but not started, and so not ready.
    cluster.restart(1)?;
    let first = until("answering", async || probes(ports[1]).await).await?;
    ensure!(first == [503, 200, 503], "at its start: {first:?}");
    let (_, progress) = admin::get(ports[1], "/startupz").await?;
    note!("at its start a node says: {}", progress.trim());
    all_probes(ports[1], [200, 200, 200]).await?;
    cluster.restart(2)?;
    cluster.wait_converged(PATIENCE).await?;

    // At the end a process is alive, and no longer ready.
    cluster.shard_process(0)?.signal("TERM")?;
    let mut last = [0; 3];
    while let Ok(seen) = probes(ports[0]).await {
        last = seen;
    }
    ensure!(last == [200, 200, 503], "while it shut down: {last:?}");
    ensure!(until("over", async || cluster.shard_process(0)?.ended().context("it runs")).await?.success(), "not clean");

    // A coordinator that no shard node answers can neither serve nor forward.
    cluster.kill(1)?;
    cluster.kill(2)?;
    all_probes(coordinator, [200, 200, 503]).await?;
    let (_, why) = admin::get(coordinator, "/readyz").await?;
    ensure!(why.contains("no shard node has answered"), "{why}");
    cluster.restart(1)?;
    all_probes(coordinator, [200, 200, 200]).await
}
