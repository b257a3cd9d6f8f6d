//! `omma cluster …`

use std::time::Duration;

use clap::{Args, Subcommand};
use omma_client::Omma;
use omma_client::proto::{GetClusterStatusResponse, Move, MovePhase, NodeState};
use serde_json::{Value, json};

use super::Context;
use super::status::short;
use crate::exit::CliError;
use crate::json;
use crate::output::note;
use crate::table::{Align, Table};
use crate::text::{count, duration, proto_duration, thousands};

/// Between two looks while waiting.
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// Move everything off a node, and wait until it holds nothing
    Drain(DrainArgs),
    /// Let a draining or drained node hold replicas again
    Undrain(NodeArgs),
    /// Take a drained node out of the cluster for good
    Remove(NodeArgs),
    /// Let no replica move until resume
    Pause,
    /// Let replicas move again
    Resume,
    /// Show the replicas that are on their way from one node to another
    Jobs,
}

#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    /// The node: its id, or its address.
    node: String,
}

#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Return at once; the cluster goes on by itself.
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(context: &Context, command: ClusterCommand) -> Result<(), CliError> {
    let omma = context.connect().await?;
    let output = context.output;
    match command {
        ClusterCommand::Drain(args) => {
            let node_id = omma.drain_node(&args.node.node).await?;
            let state = match args.no_wait {
                true => NodeState::Draining,
                false => wait_drained(&omma, node_id).await?,
            };
            output.result(|| node(node_id, state), || said(&args.node.node, state))
        }
        ClusterCommand::Undrain(args) => {
            let node_id = omma.undrain_node(&args.node).await?;
            output.result(|| node(node_id, NodeState::Active), || said(&args.node, NodeState::Active))
        }
        ClusterCommand::Remove(args) => {
            let node_id = omma.remove_node(&args.node).await?;
            let text = || format!("{} is no part of the cluster any more.", args.node);
            output.result(|| json!({ "node_id": node_id.to_string(), "removed": true }), text)
        }
        ClusterCommand::Pause => {
            omma.pause_moves().await?;
            output.result(|| json!({ "paused": true }), || "No replica moves until `omma cluster resume`.".into())
        }
        ClusterCommand::Resume => {
            omma.resume_moves().await?;
            output.result(|| json!({ "paused": false }), || "Replicas may move.".into())
        }
        ClusterCommand::Jobs => {
            let (moves, paused) = omma.moves().await?;
            let status = omma.status().await?;
            let all = || json!({ "paused": paused, "moves": moves.iter().map(json::job).collect::<Vec<_>>() });
            output.result(all, || human(&moves, paused, &status))
        }
    }
}

fn node(node_id: u64, state: NodeState) -> Value {
    json!({ "node_id": node_id.to_string(), "state": json::node_state(state) })
}

fn said(node: &str, state: NodeState) -> String {
    match state {
        NodeState::Drained => format!("{node} holds nothing any more; it can be stopped."),
        NodeState::Draining => format!("{node} is being drained; `omma cluster jobs` shows how far it is."),
        _ => format!("{node} may hold replicas."),
    }
}

/// Until it is drained. A call that fails is only one look less: the cluster goes on meanwhile.
async fn wait_drained(omma: &Omma, node_id: u64) -> Result<NodeState, CliError> {
    let mut last = String::new();
    loop {
        match look(omma, node_id).await {
            Ok(Look::Now(NodeState::Draining, text)) => {
                if text != last {
                    note(&text);
                }
                last = text;
            }
            Ok(Look::Now(NodeState::Drained, _)) => return Ok(NodeState::Drained),
            Ok(Look::Now(state, _)) => {
                let text = format!("the node is not being drained any more: it is {}", json::node_state(state));
                return Err(CliError::Failed(text));
            }
            Ok(Look::Gone) => return Err(CliError::Failed("the node was taken out of the cluster meanwhile".into())),
            Err(error) => note(format!("omma: {error}; looking again")),
        }
        tokio::time::sleep(POLL).await;
    }
}

enum Look {
    /// Its state, and how far it is.
    Now(NodeState, String),
    Gone,
}

async fn look(omma: &Omma, node_id: u64) -> Result<Look, CliError> {
    let status = omma.status().await?;
    let Some(node) = status.nodes.iter().find(|n| n.node_id == node_id) else { return Ok(Look::Gone) };
    let (moves, paused) = omma.moves().await?;
    let left = count(u64::from(node.replica_count), "replica", "replicas");
    let under_way = moves.iter().filter(|m| m.from_node_id == node_id).map(progress);
    let mut text = format!("{left} left");
    under_way.for_each(|line| text.push_str(&format!("; {line}")));
    if paused {
        text.push_str("; moves are paused: `omma cluster resume` lets them go on");
    }
    Ok(Look::Now(node.state(), text))
}

/// "group 2: copying, 40 of 1,200 images, about 29.0 s left"
fn progress(m: &Move) -> String {
    let mut text = format!("group {}: {}", m.group_id, json::phase(m.phase()));
    if m.phase() == MovePhase::Copying {
        text.push_str(&format!(", {} of {} images", thousands(m.done), thousands(m.total)));
        if let Some(left) = &m.remaining {
            text.push_str(&format!(", about {} left", duration(proto_duration(Some(left)))));
        }
    }
    text
}

fn human(moves: &[Move], paused: bool, status: &GetClusterStatusResponse) -> String {
    let address = |id: u64| {
        let known = status.nodes.iter().find(|n| n.node_id == id);
        known.map_or_else(|| short(id), |n| n.address.clone())
    };
    let mut table = Table::new(&[
        ("group", Align::Left),
        ("from", Align::Left),
        ("to", Align::Left),
        ("reason", Align::Left),
        ("phase", Align::Left),
        ("images", Align::Right),
        ("of", Align::Right),
        ("for", Align::Right),
        ("left", Align::Right),
    ]);
    for m in moves {
        let time =
            |d: Option<&prost_types::Duration>| d.map_or_else(String::new, |d| duration(proto_duration(Some(d))));
        table.row([
            m.group_id.to_string(),
            address(m.from_node_id),
            address(m.to_node_id),
            json::reason(m.reason()),
            json::phase(m.phase()),
            thousands(m.done),
            thousands(m.total),
            time(m.elapsed.as_ref()),
            time(m.remaining.as_ref()),
        ]);
    }
    let state = if paused { "Moves are paused: `omma cluster resume` lets them go on.\n" } else { "" };
    match moves.is_empty() {
        true => format!("{state}No replica is on its way."),
        false => format!("{state}{}", table.render()),
    }
}
