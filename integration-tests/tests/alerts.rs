//! The alert rules fire when a real cluster is broken, as the real Prometheus sees it, and are silent before.
//!
//! Needs Debian's package `prometheus`. Run with:
//! `cargo build --workspace --bins && cargo test -p omma-integration-tests --test alerts -- --ignored --nocapture`

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use omma_integration_tests::admin;
use omma_integration_tests::client::{Client, by_vector};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::{repository, target_folder};
use omma_integration_tests::note;
use omma_integration_tests::ports::free_port;
use omma_proto::v1::{Query, SearchRequest};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Request;

const DIMENSION: usize = 8;
const PATIENCE: Duration = Duration::from_secs(120);
/// Longer than any alert would need to fire, were there a cause.
const QUIET: Duration = Duration::from_secs(20);

/// A Prometheus that watches a cluster. Killed when dropped.
struct Prometheus {
    child: Child,
    address: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The rules as they are, but for how long they wait.
fn impatient(rules: &str) -> String {
    let line = |line: &str| match line.trim_start().strip_prefix("for: ") {
        Some(_) => format!("{}for: 1s", &line[..line.len() - line.trim_start().len()]),
        None => line.to_owned(),
    };
    rules.lines().map(line).collect::<Vec<_>>().join("\n")
}

impl Prometheus {
    fn start(targets: &[&str], folder: &Path) -> Result<Self> {
        let rules = std::fs::read_to_string(repository().join("deploy/prometheus/alerts.yaml"))?;
        std::fs::write(folder.join("alerts.yaml"), impatient(&rules))?;
        let targets = targets.iter().map(|t| format!("\"{t}\"")).collect::<Vec<_>>().join(", ");
        let configuration = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [alerts.yaml]\n\
             scrape_configs: [{{job_name: omma, static_configs: [{{targets: [{targets}]}}]}}]\n"
        );
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, configuration)?;
        let address = format!("127.0.0.1:{}", free_port()?);
        let log = std::fs::File::create(folder.join("prometheus.log"))?;
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start prometheus: apt-get install prometheus")?;
        Ok(Self { child, address })
    }

    async fn api(&self, path: &str) -> Result<serde_json::Value> {
        let (status, body) = admin::get(&self.address, path).await?;
        ensure!(status == 200, "{path} answered {status}: {body}");
        Ok(serde_json::from_str(&body)?)
    }

    /// Names of the alerts that fire.
    async fn firing(&self) -> Result<BTreeSet<String>> {
        let answer = self.api("/api/v1/alerts").await?;
        let alerts = answer["data"]["alerts"].as_array().context("no alerts in the answer")?;
        let firing = alerts.iter().filter(|a| a["state"] == "firing");
        Ok(firing.filter_map(|a| a["labels"]["alertname"].as_str()).map(str::to_owned).collect())
    }

    /// How many targets answer.
    async fn up(&self) -> Result<usize> {
        let answer = self.api("/api/v1/targets").await?;
        let targets = answer["data"]["activeTargets"].as_array().context("no targets in the answer")?;
        Ok(targets.iter().filter(|t| t["health"] == "up").count())
    }

    async fn wait_for(&self, what: &str, wanted: &[&str]) -> Result<()> {
        let begin = Instant::now();
        loop {
            let firing = self.firing().await?;
            if wanted.iter().all(|name| firing.contains(*name)) {
                note!("{what}: {firing:?} after {:.1?}", begin.elapsed());
                return Ok(());
            }
            if begin.elapsed() > PATIENCE {
                bail!("{what}: only {firing:?} fire after {PATIENCE:?}, not all of {wanted:?}");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

/// Linearizable searches with a deadline, one after the other, whatever becomes of them.
fn searches(client: Client, stop: Arc<AtomicBool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        while !stop.load(Ordering::Relaxed) {
            let query = Query { target: Some(by_vector(&[1.0; DIMENSION])), k: 3, ..Query::default() };
            let message = SearchRequest { collection: "alerts".to_owned(), query: Some(query), ..Default::default() };
            let mut request = Request::new(message);
            // A client that only went away would be nobody's failure.
            request.set_timeout(Duration::from_secs(1));
            let _ = client.searches().search(request).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}

fn checked_by_promtool() -> Result<()> {
    let folder = repository().join("deploy/prometheus");
    for arguments in [["check", "rules", "alerts.yaml"], ["test", "rules", "alerts.test.yaml"]] {
        let tool = Command::new("promtool").args(arguments).current_dir(&folder).output();
        let output = tool.context("cannot start promtool: apt-get install prometheus")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs prometheus; takes minutes"]
async fn alerts_fire_when_a_cluster_breaks() -> Result<()> {
    checked_by_promtool()?;
    let cluster = Cluster::start(ClusterOptions::named("alerts")).await?;
    let client = cluster.client()?;
    client.create("alerts", Some(DIMENSION as u32)).await?;
    let folder: PathBuf = target_folder()?.join("cluster-data").join(format!("prometheus-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let ports = cluster.admin_ports();
    let prometheus = Prometheus::start(&ports, &folder)?;
    let stop = Arc::new(AtomicBool::new(false));
    let load = searches(client, stop.clone());

    let begin = Instant::now();
    while prometheus.up().await.unwrap_or(0) < ports.len() {
        ensure!(begin.elapsed() < PATIENCE, "prometheus does not reach all admin ports");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(QUIET).await;
    let firing = prometheus.firing().await?;
    ensure!(firing.is_empty(), "nothing is broken, and yet {firing:?}");

    cluster.kill(1)?;
    let away = ["OmmaGroupOneFailureFromStop", "OmmaReplicaMissing", "OmmaProcessDown"];
    prometheus.wait_for("one of three nodes killed", &away).await?;
    // For a moment, which the real rule lets pass, the groups that it led have none.
    let begin = Instant::now();
    while prometheus.firing().await?.contains("OmmaGroupWithoutLeader") {
        ensure!(begin.elapsed() < QUIET, "two of three can elect a leader");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    cluster.kill(2)?;
    prometheus.wait_for("two of three killed", &["OmmaGroupWithoutLeader", "OmmaErrors"]).await?;
    cluster.kill(0)?;
    prometheus.wait_for("all three killed", &["OmmaCoordinatorCutOff"]).await?;
    let coordinator = cluster.coordinator_process(0)?;
    coordinator.kill();
    coordinator.start()?;
    prometheus.wait_for("and the coordinator started anew", &["OmmaCoordinatorWithoutMap"]).await?;

    for node in 0..cluster.nodes() {
        cluster.restart(node)?;
    }
    cluster.wait_converged(PATIENCE).await?;
    let begin = Instant::now();
    // Rates look back a minute.
    while !prometheus.firing().await?.is_empty() {
        ensure!(begin.elapsed() < PATIENCE, "still firing: {:?}", prometheus.firing().await?);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    note!("all back: silence after {:.1?}", begin.elapsed());
    stop.store(true, Ordering::Relaxed);
    load.await?;
    drop(prometheus);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
