//! `omma status`

use std::collections::BTreeMap;

use omma_client::proto::{GetClusterStatusResponse, GroupStatus, NodeState, NodeStatus};

use super::Context;
use crate::exit::CliError;
use crate::json;
use crate::table::{Align, Table};
use crate::text::{duration, hex, proto_duration, thousands};

pub(crate) async fn run(context: &Context) -> Result<(), CliError> {
    let status = context.connect().await?.status().await?;
    context.output.result(|| json::status(&status), || human(&status))
}

pub(crate) fn human(status: &GetClusterStatusResponse) -> String {
    let space = match &status.vector_space {
        Some(space) => format!("{} ({} numbers)", space.id, space.dimension),
        None => "none: the encoders differ, or none answered".to_owned(),
    };
    format!(
        "Cluster {}, epoch {}, coordinator {}\nVector space {space}\n{}\n{}\n{}",
        status.cluster_id,
        status.epoch,
        status.version,
        if status.moves_paused { "Moves are paused: `omma cluster resume` lets them go on\n" } else { "" },
        nodes(&status.nodes),
        groups(status)
    )
}

fn nodes(nodes: &[NodeStatus]) -> String {
    let mut table = Table::new(&[
        ("node", Align::Left),
        ("address", Align::Left),
        ("state", Align::Left),
        ("up", Align::Right),
        ("device", Align::Left),
        ("model", Align::Left),
        ("encoded", Align::Right),
    ]);
    for node in nodes {
        let encoder = node.encoder.clone().unwrap_or_default();
        table.row([
            short(node.node_id),
            node.address.clone(),
            state(node),
            if node.reachable { duration(proto_duration(node.uptime.as_ref())) } else { String::new() },
            encoder.device,
            encoder.model,
            if node.encoder.is_some() { thousands(encoder.images_encoded) } else { String::new() },
        ]);
    }
    table.render()
}

fn groups(status: &GetClusterStatusResponse) -> String {
    let addresses: BTreeMap<u64, &str> = status.nodes.iter().map(|n| (n.node_id, n.address.as_str())).collect();
    let mut table = Table::new(&[
        ("group", Align::Left),
        ("slots", Align::Right),
        ("replicas", Align::Left),
        ("replica", Align::Left),
        ("role", Align::Left),
        ("applied", Align::Right),
        ("images", Align::Right),
        ("graph", Align::Right),
        ("tail", Align::Right),
        ("digest", Align::Left),
    ]);
    for group in &status.groups {
        for (i, replica) in group.replicas.iter().enumerate() {
            let first = i == 0;
            let address = addresses.get(&replica.node_id).copied().unwrap_or_default();
            let mut row = vec![
                if first { group_name(group) } else { String::new() },
                if first { group.slot_count.to_string() } else { String::new() },
                if first { agreement(group) } else { String::new() },
                if address.is_empty() { short(replica.node_id) } else { address.to_owned() },
            ];
            if replica.reachable {
                row.extend([
                    json::role(replica.role()),
                    thousands(replica.applied_index),
                    thousands(replica.image_count),
                    thousands(replica.graph_count),
                    thousands(replica.tail_count),
                    hex(&replica.digest[..replica.digest.len().min(6)]),
                ]);
            } else {
                row.push("unreachable".into());
            }
            table.row(row);
        }
    }
    table.render()
}

fn group_name(group: &GroupStatus) -> String {
    match group.group_id {
        0 => "metadata".into(),
        id => id.to_string(),
    }
}

fn agreement(group: &GroupStatus) -> String {
    match json::agreement(group.agreement()).as_str() {
        _ if group.leader_node_id == 0 => "NO LEADER".into(),
        "different" => "DIFFERENT".into(),
        other => other.replace('_', " "),
    }
}

/// "up, draining"
fn state(node: &NodeStatus) -> String {
    let reached = if node.reachable { "up" } else { "unreachable" };
    match node.state() {
        NodeState::Active | NodeState::Unspecified => reached.to_owned(),
        state => format!("{reached}, {}", json::node_state(state)),
    }
}

/// The last digits tell nodes apart well enough for people.
pub(crate) fn short(node_id: u64) -> String {
    format!("…{:04x}", node_id & 0xffff)
}

#[cfg(test)]
mod tests {
    use omma_client::proto::{Agreement, ReplicaRole, ReplicaStatus};

    use super::*;

    #[test]
    fn what_is_wrong_stands_out() {
        let replica = ReplicaStatus {
            node_id: 1,
            reachable: true,
            role: ReplicaRole::Leader.into(),
            applied_index: 1200,
            ..Default::default()
        };
        let gone = ReplicaStatus { node_id: 2, ..Default::default() };
        let group = GroupStatus {
            group_id: 1,
            leader_node_id: 1,
            replicas: vec![replica, gone],
            agreement: Agreement::Different.into(),
            ..Default::default()
        };
        let leaderless = GroupStatus { group_id: 2, replicas: vec![ReplicaStatus::default()], ..Default::default() };
        let status = GetClusterStatusResponse {
            nodes: vec![NodeStatus {
                node_id: 1,
                address: "a:1".into(),
                reachable: true,
                state: NodeState::Draining.into(),
                ..Default::default()
            }],
            groups: vec![group, leaderless],
            ..Default::default()
        };
        let text = human(&status);
        for part in ["DIFFERENT", "NO LEADER", "unreachable", "a:1", "1,200", "leader", "up, draining"] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
    }
}
