//! Answers as JSON. Names are those of the protocol, in snake_case. Node ids and other 64-bit ids are strings (many
//! readers of JSON round large numbers), digests hexadecimal strings, durations seconds, timestamps RFC 3339.

use omma_client::ClientError;
use omma_client::proto::{
    Agreement, AttributeValue, Collection, Coverage, EncoderStatus, GetClusterStatusResponse, GroupStatus, Hit, Image,
    Move, MovePhase, MoveReason, NodeState, NodeStatus, Quantization, ReplicaRole, ReplicaStatus, SearchResponse,
    SearchTimings, SlotMove, SlotMovePhase, VectorSpace, attribute_value::Kind,
};
use prost_types::{Duration, Timestamp};
use serde_json::{Map, Value, json};

use crate::text::{hex, proto_duration};

fn seconds(d: Option<&Duration>) -> Value {
    d.map_or(Value::Null, |d| json!(proto_duration(Some(d)).as_secs_f64()))
}

pub(crate) fn timestamp(t: Option<&Timestamp>) -> Value {
    t.map_or(Value::Null, |t| json!(t.to_string()))
}

pub(crate) fn vector_space(space: Option<&VectorSpace>) -> Value {
    space.map_or(Value::Null, |s| json!({ "id": s.id, "dimension": s.dimension }))
}

pub(crate) fn collection(c: &Collection) -> Value {
    json!({
        "name": c.name,
        "uid": c.uid.to_string(),
        "vector_space": vector_space(c.vector_space.as_ref()),
        "create_time": timestamp(c.create_time.as_ref()),
        "image_count": c.image_count,
        "quantization": quantization(c.quantization()),
    })
}

/// "f16"; null if it was left to the shard nodes.
fn quantization(kind: Quantization) -> Value {
    match kind {
        Quantization::Unspecified => Value::Null,
        kind => json!(kind.as_str_name().trim_start_matches("QUANTIZATION_").to_lowercase()),
    }
}

pub(crate) fn attribute(value: &AttributeValue) -> Value {
    match &value.kind {
        None => Value::Null,
        Some(Kind::StringValue(s)) => json!(s),
        Some(Kind::IntegerValue(n)) => json!(n),
        Some(Kind::FloatValue(x)) => json!(x),
        Some(Kind::BoolValue(b)) => json!(b),
        Some(Kind::TimestampValue(t)) => timestamp(Some(t)),
        Some(Kind::StringListValue(list)) => json!(list.values),
    }
}

fn attributes<'a>(all: impl IntoIterator<Item = (&'a String, &'a AttributeValue)>) -> Value {
    Value::Object(all.into_iter().map(|(name, value)| (name.clone(), attribute(value))).collect::<Map<_, _>>())
}

pub(crate) fn image(i: &Image) -> Value {
    let mut value = json!({
        "id": i.id,
        "attributes": attributes(&i.attributes),
        "content_digest": hex(&i.content_digest),
    });
    if let Some(embedding) = &i.embedding {
        value["embedding"] = json!({ "values": embedding.values });
    }
    value
}

pub(crate) fn hit(h: &Hit) -> Value {
    json!({ "id": h.id, "score": h.score, "attributes": attributes(&h.attributes) })
}

pub(crate) fn coverage(c: &Coverage) -> Value {
    let failure =
        |f: &omma_client::proto::GroupFailure| json!({ "group_id": f.group_id, "code": f.code, "message": f.message });
    json!({
        "groups_asked": c.groups_asked,
        "groups_answered": c.groups_answered,
        "failures": c.failures.iter().map(failure).collect::<Vec<_>>(),
    })
}

pub(crate) fn timings(t: &SearchTimings) -> Value {
    json!({
        "total": seconds(t.total.as_ref()),
        "encode": seconds(t.encode.as_ref()),
        "decode": seconds(t.decode.as_ref()),
        "encode_queue": seconds(t.encode_queue.as_ref()),
        "inference": seconds(t.inference.as_ref()),
        "fan_out": seconds(t.fan_out.as_ref()),
        "merge": seconds(t.merge.as_ref()),
    })
}

pub(crate) fn search_response(r: &SearchResponse) -> Value {
    json!({
        "hits": r.hits.iter().map(hit).collect::<Vec<_>>(),
        "coverage": r.coverage.as_ref().map(coverage),
        "timings": r.timings.as_ref().map(timings),
    })
}

pub(crate) fn error(e: &ClientError) -> Value {
    json!({
        "code": format!("{:?}", e.code()),
        "reason": e.reason().map(|r| r.name()),
        "message": e.message(),
        "advice": e.advice(),
    })
}

fn encoder(e: &EncoderStatus) -> Value {
    json!({
        "model": e.model,
        "vector_space": vector_space(e.vector_space.as_ref()),
        "device": e.device,
        "runtime": e.runtime,
        "images_encoded": e.images_encoded,
        "batches": e.batches,
    })
}

fn node(n: &NodeStatus) -> Value {
    json!({
        "node_id": n.node_id.to_string(),
        "address": n.address,
        "reachable": n.reachable,
        "version": n.version,
        "uptime": seconds(n.uptime.as_ref()),
        "encoder": n.encoder.as_ref().map(encoder),
        "zone": n.zone,
        "state": node_state(n.state()),
        "replica_count": n.replica_count,
    })
}

/// "draining" for NODE_STATE_DRAINING.
pub(crate) fn node_state(state: NodeState) -> String {
    state.as_str_name().trim_start_matches("NODE_STATE_").to_lowercase()
}

/// "copying" for MOVE_PHASE_COPYING.
pub(crate) fn phase(phase: MovePhase) -> String {
    phase.as_str_name().trim_start_matches("MOVE_PHASE_").to_lowercase()
}

/// "drain" for MOVE_REASON_DRAIN.
pub(crate) fn reason(reason: MoveReason) -> String {
    reason.as_str_name().trim_start_matches("MOVE_REASON_").to_lowercase()
}

/// "copying" for SLOT_MOVE_PHASE_COPYING.
pub(crate) fn slot_phase(phase: SlotMovePhase) -> String {
    phase.as_str_name().trim_start_matches("SLOT_MOVE_PHASE_").to_lowercase()
}

pub(crate) fn slot_job(m: &SlotMove) -> Value {
    json!({
        "move_id": m.move_id.to_string(),
        "from_group_id": m.from_group_id,
        "to_group_id": m.to_group_id,
        "slots": m.slot_count,
        "phase": slot_phase(m.phase()),
        "done": m.done,
        "total": m.total,
        "elapsed": seconds(m.elapsed.as_ref()),
        "remaining": seconds(m.remaining.as_ref()),
    })
}

pub(crate) fn job(m: &Move) -> Value {
    json!({
        "group_id": m.group_id,
        "from_node_id": m.from_node_id.to_string(),
        "to_node_id": m.to_node_id.to_string(),
        "reason": reason(m.reason()),
        "phase": phase(m.phase()),
        "done": m.done,
        "total": m.total,
        "elapsed": seconds(m.elapsed.as_ref()),
        "remaining": seconds(m.remaining.as_ref()),
    })
}

/// "leader" for REPLICA_ROLE_LEADER.
pub(crate) fn role(role: ReplicaRole) -> String {
    role.as_str_name().trim_start_matches("REPLICA_ROLE_").to_lowercase()
}

/// "catching_up" for AGREEMENT_CATCHING_UP.
pub(crate) fn agreement(agreement: Agreement) -> String {
    agreement.as_str_name().trim_start_matches("AGREEMENT_").to_lowercase()
}

fn replica(r: &ReplicaStatus) -> Value {
    json!({
        "node_id": r.node_id.to_string(),
        "reachable": r.reachable,
        "role": role(r.role()),
        "last_log_index": r.last_log_index,
        "committed_index": r.committed_index,
        "applied_index": r.applied_index,
        "image_count": r.image_count,
        "digest": hex(&r.digest),
        "graph_count": r.graph_count,
        "tail_count": r.tail_count,
        "tombstone_count": r.tombstone_count,
        "checkpoint_index": r.checkpoint_index,
        "received_count": r.received_count,
    })
}

fn group(g: &GroupStatus) -> Value {
    json!({
        "group_id": g.group_id,
        "leader_node_id": g.leader_node_id.to_string(),
        "term": g.term,
        "slot_count": g.slot_count,
        "replicas": g.replicas.iter().map(replica).collect::<Vec<_>>(),
        "agreement": agreement(g.agreement()),
    })
}

pub(crate) fn status(s: &GetClusterStatusResponse) -> Value {
    json!({
        "cluster_id": s.cluster_id,
        "epoch": s.epoch,
        "nodes": s.nodes.iter().map(node).collect::<Vec<_>>(),
        "groups": s.groups.iter().map(group).collect::<Vec<_>>(),
        "vector_space": vector_space(s.vector_space.as_ref()),
        "version": s.version,
        "moves_paused": s.moves_paused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_protocol() {
        let status = GetClusterStatusResponse {
            nodes: vec![NodeStatus { node_id: u64::MAX, ..Default::default() }],
            groups: vec![GroupStatus {
                leader_node_id: 7,
                agreement: Agreement::CatchingUp.into(),
                replicas: vec![ReplicaStatus {
                    role: ReplicaRole::Leader.into(),
                    digest: vec![1, 255],
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let value = self::status(&status);
        assert_eq!(value["nodes"][0]["node_id"], "18446744073709551615");
        let group = &value["groups"][0];
        assert_eq!((group["agreement"].as_str(), group["leader_node_id"].as_str()), (Some("catching_up"), Some("7")));
        let replica = &group["replicas"][0];
        assert_eq!((replica["role"].as_str(), replica["digest"].as_str()), (Some("leader"), Some("01ff")));
        assert_eq!(value["vector_space"], Value::Null);
    }

    #[test]
    fn attributes_keep_their_types() {
        let kinds = [
            (Kind::StringValue("x".into()), json!("x")),
            (Kind::IntegerValue(-3), json!(-3)),
            (Kind::FloatValue(0.5), json!(0.5)),
            (Kind::BoolValue(true), json!(true)),
            (Kind::TimestampValue(Timestamp { seconds: 0, nanos: 0 }), json!("1970-01-01T00:00:00Z")),
            (
                Kind::StringListValue(omma_client::proto::StringList { values: vec!["a".into(), "b".into()] }),
                json!(["a", "b"]),
            ),
        ];
        for (kind, expected) in kinds {
            assert_eq!(attribute(&AttributeValue { kind: Some(kind) }), expected);
        }
    }

    #[test]
    fn durations_are_seconds() {
        let took = SearchTimings { total: Some(Duration { seconds: 1, nanos: 500_000_000 }), ..Default::default() };
        let value = timings(&took);
        assert_eq!((value["total"].as_f64(), &value["encode"]), (Some(1.5), &Value::Null));
    }
}
