//! Faults done to a cluster, and mended.

use std::time::Duration;

use anyhow::Result;
use futures::future::try_join_all;
use tokio::time::{Instant, sleep_until, timeout};

use super::schedule::{Event, Fault, Victim};
use crate::cluster::Cluster;
use crate::network::{Link, Party};

/// Finding out who leads takes no longer: otherwise the fault befalls somebody else.
const LOOK: Duration = Duration::from_secs(1);

/// Does every fault at its time and mends it at its time; returns their names.
///
/// # Errors
/// If a process cannot be started again.
pub async fn pass(cluster: &Cluster, events: &[Event]) -> Result<Vec<&'static str>> {
    let begin = Instant::now();
    let all = events.iter().map(|event| async move {
        sleep_until(begin + event.at).await;
        let fault = aimed(cluster, event.fault).await;
        start(cluster, fault)?;
        sleep_until(begin + event.at + event.lasts).await;
        mend(cluster, fault)?;
        anyhow::Ok(event.fault.name())
    });
    try_join_all(all).await
}

/// Mends everything, whatever is broken.
///
/// # Errors
/// If a process cannot be started again.
pub fn calm(cluster: &Cluster) -> Result<()> {
    cluster.network()?.heal();
    for node in 0..cluster.nodes() {
        revive(cluster, node)?;
    }
    Ok(())
}

/// The fault with its victim by number.
async fn aimed(cluster: &Cluster, fault: Fault) -> Fault {
    let at = |victim| async move {
        let Victim::LeaderOf(group) = victim else { return victim };
        Victim::Node(leader(cluster, group).await.unwrap_or(group as usize % cluster.nodes()))
    };
    match fault {
        Fault::Kill(v) => Fault::Kill(at(v).await),
        Fault::Pause(v) => Fault::Pause(at(v).await),
        Fault::Stop(v) => Fault::Stop(at(v).await),
        Fault::Split(v) => Fault::Split(at(v).await),
        Fault::Isolate(v) => Fault::Isolate(at(v).await),
        Fault::Slow(v, delay) => Fault::Slow(at(v).await, delay),
        Fault::KillAll | Fault::OneWay(..) | Fault::Unreachable(..) => fault,
    }
}

async fn leader(cluster: &Cluster, group: u32) -> Option<usize> {
    let status = timeout(LOOK, cluster.status()).await.ok()?.ok()?;
    let leader = status.groups.iter().find(|g| g.group_id == group)?.leader_node_id;
    cluster.node_by_id(&status, leader).ok()
}

fn number(victim: Victim, cluster: &Cluster) -> usize {
    match victim {
        Victim::Node(node) => node,
        Victim::LeaderOf(group) => group as usize % cluster.nodes(),
    }
}

/// Links that a fault touches, and what they become.
fn links(cluster: &Cluster, fault: Fault) -> (Vec<(Party, Party)>, Link) {
    let both = |a: Party, b: Party| [(a, b), (b, a)];
    let peers = |node: usize| {
        let others = (0..cluster.nodes()).filter(move |other| *other != node);
        others.flat_map(move |other| both(Party::Shard(node), Party::Shard(other)))
    };
    let coordinators =
        |node: usize| (0..cluster.coordinators()).flat_map(move |i| both(Party::Shard(node), Party::Coordinator(i)));
    match fault {
        Fault::OneWay(from, to) => (vec![(Party::Shard(from), Party::Shard(to))], Link::Cut),
        Fault::Split(v) => (peers(number(v, cluster)).collect(), Link::Cut),
        Fault::Isolate(v) => {
            let node = number(v, cluster);
            (peers(node).chain(coordinators(node)).collect(), Link::Cut)
        }
        Fault::Unreachable(node, i) => (both(Party::Shard(node), Party::Coordinator(i)).to_vec(), Link::Cut),
        Fault::Slow(v, delay) => {
            let node = number(v, cluster);
            (peers(node).chain(coordinators(node)).collect(), Link::Slow(delay))
        }
        Fault::Kill(_) | Fault::KillAll | Fault::Pause(_) | Fault::Stop(_) => (Vec::new(), Link::Open),
    }
}

fn start(cluster: &Cluster, fault: Fault) -> Result<()> {
    let (links, state) = links(cluster, fault);
    let network = cluster.network()?;
    links.into_iter().for_each(|(from, to)| network.set(from, to, state));
    match fault {
        Fault::Kill(v) => cluster.kill(number(v, cluster))?,
        // Who is dead already cannot be stopped, and need not be.
        Fault::Pause(v) => drop(cluster.pause(number(v, cluster))),
        Fault::Stop(v) => drop(cluster.shard_process(number(v, cluster))?.signal("TERM")),
        Fault::KillAll => {
            (0..cluster.nodes()).for_each(|node| drop(cluster.pause(node)));
            (0..cluster.nodes()).try_for_each(|node| cluster.kill(node))?;
        }
        _ => {}
    }
    Ok(())
}

fn mend(cluster: &Cluster, fault: Fault) -> Result<()> {
    let network = cluster.network()?;
    links(cluster, fault).0.into_iter().for_each(|(from, to)| network.set(from, to, Link::Open));
    match fault {
        Fault::Stop(v) => {
            let node = number(v, cluster);
            cluster.kill(node)?;
            cluster.restart(node)
        }
        Fault::Kill(v) | Fault::Pause(v) => revive(cluster, number(v, cluster)),
        Fault::KillAll => (0..cluster.nodes()).try_for_each(|node| revive(cluster, node)),
        _ => Ok(()),
    }
}

/// A dead node is started, a stopped one goes on.
fn revive(cluster: &Cluster, node: usize) -> Result<()> {
    match cluster.shard_process(node)?.pid() {
        Some(_) => cluster.resume(node),
        None => cluster.restart(node),
    }
}
