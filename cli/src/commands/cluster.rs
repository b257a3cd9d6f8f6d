//! `omma cluster …`

use std::time::Duration;

use clap::{Args, Subcommand};
use omma_client::Omma;
use omma_client::proto::{GetClusterStatusResponse, Move, MovePhase, NodeState, SlotMove, SlotMovePhase};
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
    /// Say how many shard groups there are to be, and wait until there are and each has its share of the slots
    Groups(GroupsArgs),
    /// Let no replica and no slot move until resume
    Pause,
    /// Let replicas and slots move again
    Resume,
    /// Show the replicas that are on their way from one node to another, and slots from one group to another
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

#[derive(Debug, Args)]
pub(crate) struct GroupsArgs {
    /// Shard groups: 1 to 4096. More: slots move to new groups. Less: groups are emptied and go.
    #[arg(value_parser = clap::value_parser!(u32).range(1..=4096))]
    groups: u32,
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
        ClusterCommand::Groups(args) => {
            omma.set_group_count(args.groups).await?;
            if !args.no_wait {
                wait_groups(&omma, args.groups).await?;
            }
            let text = || match args.no_wait {
                true => "Groups are added or emptied; `omma cluster jobs` shows how far that is.".to_owned(),
                false => format!("There are {}.", count(args.groups.into(), "shard group", "shard groups")),
            };
            output.result(|| json!({ "groups": args.groups, "done": !args.no_wait }), text)
        }
        ClusterCommand::Pause => {
            omma.pause_moves().await?;
            output.result(|| json!({ "paused": true }), || "Nothing moves until `omma cluster resume`.".into())
        }
        ClusterCommand::Resume => {
            omma.resume_moves().await?;
            output.result(|| json!({ "paused": false }), || "Replicas and slots may move.".into())
        }
        ClusterCommand::Jobs => {
            let (moves, paused) = omma.moves().await?;
            let slot_moves = omma.slot_moves().await?;
            let status = omma.status().await?;
            let all = || {
                let slot_moves: Vec<_> = slot_moves.iter().map(json::slot_job).collect();
                let moves: Vec<_> = moves.iter().map(json::job).collect();
                json!({ "paused": paused, "moves": moves, "slot_moves": slot_moves })
            };
            let human = || format!("{}\n{}", human(&moves, paused, &status), human_slots(&slot_moves));
            output.result(all, human)
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

/// Until there are so many groups, with equal shares of the slots, and nothing moves.
async fn wait_groups(omma: &Omma, groups: u32) -> Result<(), CliError> {
    let mut last = String::new();
    loop {
        match look_at_groups(omma, groups).await {
            Ok(Share::Done) => return Ok(()),
            Ok(Share::Others(other)) => {
                let text = format!("somebody else asked for {other} shard groups meanwhile");
                return Err(CliError::Failed(text));
            }
            Ok(Share::Going(text)) => {
                if text != last {
                    note(&text);
                }
                last = text;
            }
            Err(error) => note(format!("omma: {error}; looking again")),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How far the groups are.
enum Share {
    Done,
    Going(String),
    /// So many are wanted now.
    Others(u32),
}

async fn look_at_groups(omma: &Omma, groups: u32) -> Result<Share, CliError> {
    let status = omma.status().await?;
    if status.wanted_group_count != groups {
        return Ok(Share::Others(status.wanted_group_count));
    }
    let slots: Vec<u32> = status.groups.iter().filter(|g| g.group_id != 0).map(|g| g.slot_count).collect();
    let even = slots.iter().max().unwrap_or(&0) - slots.iter().min().unwrap_or(&0) <= 1;
    let moves = omma.slot_moves().await?;
    if slots.len() == groups as usize && even && moves.is_empty() {
        return Ok(Share::Done);
    }
    let mut text = format!("{} of {groups}", count(slots.len() as u64, "shard group", "shard groups"));
    moves.iter().for_each(|m| text.push_str(&format!("; {}", slot_progress(m))));
    if status.moves_paused {
        text.push_str("; moves are paused: `omma cluster resume` lets them go on");
    }
    Ok(Share::Going(text))
}

/// "group 1 to 4: copying, 40 of 1,200 images, about 29.0 s left"
fn slot_progress(m: &SlotMove) -> String {
    let mut text = format!("group {} to {}: {}", m.from_group_id, m.to_group_id, json::slot_phase(m.phase()));
    if m.phase() == SlotMovePhase::Copying {
        text.push_str(&format!(", {} of {} images", thousands(m.done), thousands(m.total)));
        if let Some(left) = &m.remaining {
            text.push_str(&format!(", about {} left", duration(proto_duration(Some(left)))));
        }
    }
    text
}

fn human_slots(moves: &[SlotMove]) -> String {
    if moves.is_empty() {
        return "No slots are on their way.".to_owned();
    }
    let mut table = Table::new(&[
        ("from group", Align::Left),
        ("to", Align::Left),
        ("slots", Align::Right),
        ("phase", Align::Left),
        ("images", Align::Right),
        ("of", Align::Right),
        ("for", Align::Right),
        ("left", Align::Right),
    ]);
    for m in moves {
        table.row([
            m.from_group_id.to_string(),
            m.to_group_id.to_string(),
            thousands(m.slot_count.into()),
            json::slot_phase(m.phase()),
            thousands(m.done),
            thousands(m.total),
            time(m.elapsed.as_ref()),
            time(m.remaining.as_ref()),
        ]);
    }
    table.render()
}

fn time(d: Option<&prost_types::Duration>) -> String {
    d.map_or_else(String::new, |d| duration(proto_duration(Some(d))))
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
