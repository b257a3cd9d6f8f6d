//! Moves of slots, as the leader of one of the two groups takes part in them. Every step is in the group's log.

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use omma_common::ids::GroupId;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::*;

use super::errors;
use crate::group::Barrier;
use crate::images::command;
use crate::node::{Node, Shard, blocking};

type Answer<T> = Result<T, ApiError>;

fn shard(node: &Node, group: GroupId) -> Answer<Shard> {
    node.shard(group).ok_or_else(|| errors::unknown_group(group))
}

/// Refuses for a step that does not come next: whoever drives the move looks again then.
async fn propose(shard: &Shard, uid: u64, command: Command, deadline: Deadline) -> Answer<()> {
    let proposed = shard.replica.propose(command::encode("", uid, command), deadline).await?;
    match command::decode_outcome(&proposed.outcome).refusal() {
        ImageRefusal::Unspecified => Ok(()),
        why => Err(errors::refusal(why, uid)),
    }
}

pub(super) async fn step(node: &Node, request: StepSlotsRequest, deadline: Deadline) -> Answer<StepSlotsResponse> {
    let shard = shard(node, request.group_id)?;
    let step = request.step.unwrap_or_default();
    if step.action() == SlotAction::Unspecified {
        shard.replica.read_barrier(Barrier::Linearizable, deadline).await?;
    } else {
        match propose(&shard, 0, Command::StepSlots(step), deadline).await {
            // What it says below tells why.
            Err(error) if error.reason == Reason::MembersChanged => {}
            proposed => proposed?,
        }
    }
    let (current, last_move_id) = shard.state.slot_move();
    Ok(StepSlotsResponse { r#move: current, last_move_id })
}

pub(super) async fn export(
    node: &Node,
    request: ExportSlotsRequest,
    deadline: Deadline,
) -> Answer<ExportSlotsResponse> {
    let shard = shard(node, request.group_id)?;
    shard.replica.read_barrier(Barrier::Linearizable, deadline).await?;
    let cursor = request.cursor.unwrap_or_default();
    let read = blocking(move || shard.state.export(request.move_id, cursor)).await;
    let batch = read.map_err(|e| errors::state(&e))?;
    Ok(ExportSlotsResponse { collection_uid: batch.uid, batch: Some(batch.import) })
}

pub(super) async fn import(
    node: &Node,
    request: ImportSlotsRequest,
    deadline: Deadline,
) -> Answer<ImportSlotsResponse> {
    let shard = shard(node, request.group_id)?;
    let batch = request.batch.ok_or_else(|| errors::missing("batch"))?;
    node.check_room(&shard.replica.status())?;
    // As with other writes: searches would slow down without end.
    if shard.state.tail(request.collection_uid) > node.config.max_tail {
        return Err(ApiError::new(Reason::IndexBehind, "too many images wait for the graph"));
    }
    propose(&shard, request.collection_uid, Command::Import(batch), deadline).await?;
    let cursor = shard.state.slot_move().0.and_then(|m| m.cursor);
    Ok(ImportSlotsResponse { cursor })
}

pub(super) async fn purge(node: &Node, request: PurgeSlotsRequest, deadline: Deadline) -> Answer<PurgeSlotsResponse> {
    let PurgeSlotsRequest { group_id, move_id, collection_uid, key } = request;
    let shard = shard(node, group_id)?;
    shard.replica.read_barrier(Barrier::Linearizable, deadline).await?;
    let state = shard.state.clone();
    let found = blocking(move || state.to_purge(move_id, collection_uid, key)).await;
    let Some(found) = found.map_err(|e| errors::state(&e))? else {
        return Ok(PurgeSlotsResponse { done: true, ..PurgeSlotsResponse::default() });
    };
    if !found.ids.is_empty() {
        propose(&shard, found.uid, Command::Purge(PurgeRecords { ids: found.ids }), deadline).await?;
    }
    Ok(PurgeSlotsResponse { done: false, collection_uid: found.next.0, key: found.next.1 })
}
