//! A node dies: what is seen while it does, and how all replicas come to be equal again.

use std::time::Duration;

use omma_client::proto::{Consistency, GetClusterStatusResponse, PutEffect};
use omma_client::{ClientError, Omma, ReadOptions, SearchOptions, image_from_picture, query};
use omma_common::limits::MAX_IDS;
use omma_common::shutdown::{self, Shutdown};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::cluster::{Cluster, all_equal, has_leaders, is_ready};
use super::probe::{Gaps, probe};
use crate::exit::CliError;
use crate::indexing::Found;
use crate::output::Output;
use crate::text::{count, duration};

/// Until the groups of a dead leader have another. Far more than elections take.
const ELECTION_BOUND: Duration = Duration::from_secs(60);
/// Until a node that is back has caught up.
const CATCH_UP_BOUND: Duration = Duration::from_secs(180);
/// How long things are watched before and after the kill.
const WATCH: Duration = Duration::from_millis(700);
/// A search or write that takes longer counts as failed, and is tried anew.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was seen.
#[derive(Debug)]
pub(super) struct Outage {
    pub(super) facts: Vec<String>,
    pub(super) json: Value,
}

/// The node that leads most groups, the metadata group among them if that decides.
#[derive(Debug, PartialEq, Eq)]
struct Victim {
    node_id: u64,
    address: String,
    led: Vec<u32>,
}

fn choose_victim(status: &GetClusterStatusResponse) -> Option<Victim> {
    let led_by =
        |id: u64| -> Vec<u32> { status.groups.iter().filter(|g| g.leader_node_id == id).map(|g| g.group_id).collect() };
    let of = |node: &omma_client::proto::NodeStatus| Victim {
        node_id: node.node_id,
        address: node.address.clone(),
        led: led_by(node.node_id),
    };
    status.nodes.iter().filter(|n| n.reachable).map(of).max_by_key(|v| (v.led.len(), v.node_id))
}

/// "shard groups 1 and 3", "no group".
fn name_groups(groups: &[u32]) -> String {
    let name = |id: &u32| if *id == 0 { "the metadata group".to_owned() } else { format!("shard group {id}") };
    let names: Vec<String> = groups.iter().map(name).collect();
    match names.as_slice() {
        [] => "no group".into(),
        [one] => one.clone(),
        [rest @ .., last] => format!("{} and {last}", rest.join(", ")),
    }
}

/// Kills a node, searches and writes on, brings it back, waits until all replicas are equal.
pub(super) async fn outage(
    cluster: &mut Cluster,
    collection: &str,
    known: &Found,
    held_back: Vec<Found>,
    output: Output,
) -> Result<Outage, CliError> {
    let (before, _) = cluster.wait_until("the cluster is whole", ELECTION_BOUND, is_ready).await?;
    let victim = choose_victim(&before).ok_or_else(|| CliError::Failed("no shard node answers".into()))?;
    let options = ReadOptions { include_embedding: true, ..ReadOptions::default() };
    let image = cluster.omma.get_image(collection, &known.id, &options).await?;
    let vector = image.embedding.map(|e| e.values).unwrap_or_default();

    let watched = Watch::begin(&cluster.endpoint, collection, vector, held_back)?;
    tokio::time::sleep(WATCH).await;
    let process = cluster.shard_at(&victim.address).ok_or_else(|| no_process(&victim))?;
    let (name, pid) = (process.name().to_owned(), process.pid().unwrap_or_default());
    output.say(format!(
        "\nKilling {name} (process {pid}, {}) with SIGKILL. It led {}.",
        victim.address,
        name_groups(&victim.led)
    ))?;
    watched.writing.fire();
    process.kill().await?;

    let settled =
        |s: &GetClusterStatusResponse| has_leaders(s) && s.groups.iter().all(|g| g.leader_node_id != victim.node_id);
    let (_, elected) = cluster.wait_until("every group has a leader again", ELECTION_BOUND, settled).await?;
    tokio::time::sleep(WATCH).await;
    let seen = watched.end().await?;
    output.say(seen.sentences(elected).join("\n"))?;

    output.say(format!("\nStarting {name} again …"))?;
    cluster.shard_at(&victim.address).ok_or_else(|| no_process(&victim))?.start()?;
    let (after, caught_up) = cluster.wait_until("all replicas are equal", CATCH_UP_BOUND, all_equal).await?;
    let missing = missing(&cluster.omma, collection, &seen.written).await?;
    let facts = facts(&name, &victim, &seen, elected, caught_up, &after, missing.len());
    output.say(facts[facts.len() - 2..].join("\n"))?;
    let json = json!({
        "killed": { "address": victim.address, "node_id": victim.node_id.to_string(), "led_groups": victim.led },
        "seconds_until_all_groups_had_leaders": elected.as_secs_f64(),
        "search_any": seen.any.to_json(),
        "search_linearizable": seen.linearizable.to_json(),
        "writes": {
            "acknowledged": seen.written.len(),
            "refused": seen.refused,
            "longest_wait_seconds": seen.longest_write.as_secs_f64(),
        },
        "acknowledged_but_missing": missing,
        "seconds_until_replicas_were_equal": caught_up.as_secs_f64(),
    });
    Ok(Outage { facts, json })
}

fn no_process(victim: &Victim) -> CliError {
    CliError::Failed(format!("no process of this demo listens at {}", victim.address))
}

impl Gaps {
    fn to_json(&self) -> Value {
        json!({
            "answered": self.successes,
            "failed": self.failures,
            "longest_gap_seconds": self.longest.as_secs_f64(),
            "last_error": self.last_error,
        })
    }
}

/// Searches and writes that go on meanwhile.
struct Watch {
    stop: shutdown::Trigger,
    /// Writing begins with the kill.
    writing: shutdown::Trigger,
    any: tokio::task::JoinHandle<Gaps>,
    linearizable: tokio::task::JoinHandle<Gaps>,
    writer: tokio::task::JoinHandle<Written>,
}

#[derive(Debug, Default)]
struct Written {
    ids: Vec<String>,
    refused: Vec<String>,
    longest: Duration,
}

/// What went on meanwhile.
struct Seen {
    any: Gaps,
    linearizable: Gaps,
    written: Vec<String>,
    refused: Vec<String>,
    longest_write: Duration,
}

impl Watch {
    fn begin(endpoint: &str, collection: &str, vector: Vec<f32>, pictures: Vec<Found>) -> Result<Self, CliError> {
        let (stop, stopping) = shutdown::channel();
        let (writing, begun) = shutdown::channel();
        // Without retries, so that what is seen is the cluster's doing and not the client's.
        let searcher = Omma::builder(endpoint).retries(0).timeout(PATIENCE).connect_lazily()?;
        let writer = Omma::builder(endpoint).timeout(ELECTION_BOUND).connect_lazily()?;
        let search = |consistency| {
            let (omma, collection, vector) = (searcher.clone(), collection.to_owned(), vector.clone());
            let options = SearchOptions { consistency, ..SearchOptions::default() };
            tokio::spawn(probe(stopping.clone(), move || {
                let (omma, collection, query) = (omma.clone(), collection.clone(), query::embedding(vector.clone(), 5));
                async move { omma.search(&collection, query, &options).await }
            }))
        };
        Ok(Self {
            any: search(Consistency::Any),
            linearizable: search(Consistency::Linearizable),
            writer: tokio::spawn(write(writer, collection.to_owned(), pictures, begun)),
            stop,
            writing,
        })
    }

    /// Lets the writer finish, then stops the searches.
    async fn end(self) -> Result<Seen, CliError> {
        let lost = |_| CliError::Failed("a part of the demo was interrupted".into());
        let written = self.writer.await.map_err(lost)?;
        self.stop.fire();
        Ok(Seen {
            any: self.any.await.map_err(lost)?,
            linearizable: self.linearizable.await.map_err(lost)?,
            written: written.ids,
            refused: written.refused,
            longest_write: written.longest,
        })
    }
}

/// Puts pictures one after the other, from `begun` on.
async fn write(omma: Omma, collection: String, pictures: Vec<Found>, begun: Shutdown) -> Written {
    begun.begun().await;
    let mut written = Written::default();
    for picture in pictures {
        let started = Instant::now();
        match write_one(&omma, &collection, &picture).await {
            Ok(_) => written.ids.push(picture.id),
            Err(reason) => written.refused.push(format!("{}: {reason}", picture.id)),
        }
        written.longest = written.longest.max(started.elapsed());
    }
    written
}

async fn write_one(omma: &Omma, collection: &str, picture: &Found) -> Result<PutEffect, String> {
    let bytes = tokio::fs::read(&picture.path).await.map_err(|e| e.to_string())?;
    let image = image_from_picture(picture.id.clone(), bytes);
    let outcomes = omma.put_images(collection, vec![image]).await.map_err(|e: ClientError| e.to_string())?;
    let outcome = outcomes.into_iter().next().ok_or("the answer is empty")?;
    outcome.result.map_err(|e| e.to_string())
}

/// Those of `ids` that a linearizable read does not find.
async fn missing(omma: &Omma, collection: &str, ids: &[String]) -> Result<Vec<String>, CliError> {
    let mut missing = Vec::new();
    for part in ids.chunks(MAX_IDS) {
        let found = omma.batch_get_images(collection, part.to_vec(), &ReadOptions::default()).await?;
        missing.extend(part.iter().filter(|id| !found.iter().any(|image| image.id == **id)).cloned());
    }
    Ok(missing)
}

impl Seen {
    fn sentences(&self, elected: Duration) -> Vec<String> {
        let searches = |name: &str, gaps: &Gaps| {
            format!(
                "{name} searches: {} answered, {} failed; the longest time without an answer was {}.",
                gaps.successes,
                gaps.failures,
                duration(gaps.longest)
            )
        };
        let acknowledged = count(self.written.len() as u64, "more image was", "more images were");
        let mut sentences = vec![
            format!("Every group had a leader again, and the status showed it, {} after the kill.", duration(elected)),
            searches("ANY", &self.any),
            searches("LINEARIZABLE", &self.linearizable),
        ];
        if !self.written.is_empty() || !self.refused.is_empty() {
            sentences.push(format!(
                "{acknowledged} acknowledged from the kill on; the longest wait for one was {}.",
                duration(self.longest_write)
            ));
        }
        sentences.extend(self.refused.iter().map(|refused| format!("Not stored: {refused}")));
        sentences
    }
}

fn facts(
    name: &str,
    victim: &Victim,
    seen: &Seen,
    elected: Duration,
    caught_up: Duration,
    after: &GetClusterStatusResponse,
    missing: usize,
) -> Vec<String> {
    let images: u64 = after.groups.iter().filter_map(|g| g.replicas.iter().map(|r| r.image_count).max()).sum();
    let mut facts = vec![format!("{name} was killed with SIGKILL while it led {}.", name_groups(&victim.led))];
    facts.extend(seen.sentences(elected));
    facts.push(format!(
        "{name} was started again; {} later all replicas of all groups had the same applied index and the same digest, \
         with {} in all.",
        duration(caught_up),
        count(images, "image", "images")
    ));
    facts.push(match missing {
        0 => "Every image that was acknowledged during the outage is there.".into(),
        n => format!("LOST: {} that had been acknowledged.", count(n as u64, "image", "images")),
    });
    facts
}

#[cfg(test)]
mod tests {
    use omma_client::proto::{GroupStatus, NodeStatus};

    use super::*;

    #[test]
    fn the_node_that_leads_most_is_killed() {
        let node = |node_id, reachable| NodeStatus {
            node_id,
            reachable,
            address: format!("a:{node_id}"),
            ..Default::default()
        };
        let group = |group_id, leader_node_id| GroupStatus { group_id, leader_node_id, ..Default::default() };
        let status = GetClusterStatusResponse {
            nodes: vec![node(1, true), node(2, true), node(3, false)],
            groups: vec![group(0, 2), group(1, 2), group(2, 1), group(3, 3), group(4, 3), group(5, 3)],
            ..Default::default()
        };
        let victim = choose_victim(&status).unwrap();
        assert_eq!((victim.address.as_str(), victim.led.as_slice()), ("a:2", &[0, 1][..]));
        assert_eq!(choose_victim(&GetClusterStatusResponse::default()), None);
    }

    #[test]
    fn groups_are_named_in_words() {
        assert_eq!(name_groups(&[]), "no group");
        assert_eq!(name_groups(&[2]), "shard group 2");
        assert_eq!(name_groups(&[0, 1, 3]), "the metadata group, shard group 1 and shard group 3");
    }
}
