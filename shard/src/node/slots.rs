//! Moves slots: the metadata leader has the two groups of each move take its steps, in order, and carries the changes
//! from one to the other.
//!
//! Nothing that matters is kept here. Each group refuses a step or a batch that is not its next one, and says where it
//! is; so whoever leads next goes on from there, and two that drive at once do no harm.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use omma_common::deadline::Deadline;
use omma_common::ids::{GroupId, METADATA_GROUP};
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::placement_service_client::PlacementServiceClient;
use omma_proto::internal::v1::{
    EndSlotMove, ExportSlotsRequest, ImportSlotsRequest, Metadata, MetadataCommand, PurgeSlotsRequest, SlotAction,
    SlotCursor, SlotMove, SlotState, StepSlots, StepSlotsRequest, StepSlotsResponse, SwitchSlots,
};
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;

use super::placement::{leads, propose};
use super::{Node, peers};

/// Between looks while nothing moves, …
const IDLE: Duration = Duration::from_secs(1);
/// … while moves are paused, or a group does not answer, …
const WAITING: Duration = Duration::from_millis(200);
/// … and while moves go on.
const BUSY: Duration = Duration::from_millis(5);
/// How long each move goes on before it is asked whether it still should.
const STRETCH: Duration = Duration::from_millis(500);
/// For one step or batch.
const PATIENCE: Duration = Duration::from_secs(5);
/// A pass of so few changes is the last before writes are held back, …
const FEW: usize = 256;
/// … or the pass of this number: with so much to do, another one would not be smaller.
const MOST_PASSES: u32 = 10;

/// For as long as the node lives.
pub(super) async fn drive(node: &Node) {
    let mut movers: HashMap<u64, Mover> = HashMap::new();
    loop {
        let metadata = node.metadata.current();
        if metadata.slot_moves.is_empty() || !leads(node).await {
            movers.clear();
            tokio::time::sleep(IDLE / 2).await;
            continue;
        }
        movers.retain(|id, _| metadata.slot_moves.iter().any(|m| m.move_id == *id));
        for moving in &metadata.slot_moves {
            movers.entry(moving.move_id).or_insert_with(|| Mover::new(moving));
        }
        let waits = join_all(movers.values_mut().map(|mover| mover.go_on(node))).await;
        tokio::time::sleep(waits.into_iter().min().unwrap_or(IDLE)).await;
    }
}

/// One of the two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Source,
    Target,
}

/// What was not done; perhaps because of one of the groups, of which another replica may lead.
struct Trouble {
    side: Option<Side>,
    reason: String,
}

impl Side {
    fn trouble(self) -> impl Fn(Status) -> Trouble + Copy {
        move |status| Trouble { side: Some(self), reason: status.message().to_owned() }
    }
}

/// What comes next in a move.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Act {
    /// A group takes a step.
    Step(Side, SlotAction),
    /// Changes are copied, from this cursor on.
    Copy(SlotCursor),
    /// The map gives the slots to the target, which accepted them at that index.
    Switch(u64),
    /// The source removes what is left.
    Purge,
    /// The move is over.
    End,
    /// Nothing, while moves are paused.
    Wait,
}

/// Where a group is in the move `id`; `None`: not begun. One that is through has no move, but knows of it.
fn stage(id: u64, said: &StepSlotsResponse, through: SlotState) -> Option<SlotState> {
    match &said.r#move {
        Some(current) if current.move_id == id => Some(current.state()),
        _ if said.last_move_id >= id => Some(through),
        _ => None,
    }
}

/// Decides by what both groups say. Once writes are held back, a pause does not stop it until they go on. Reads go from
/// one group to the other without a gap: the target serves them before the map says so, the source until it has said so.
pub(crate) fn next(
    moving: &SlotMove,
    paused: bool,
    caught_up: bool,
    purged: bool,
    source: &StepSlotsResponse,
    target: &StepSlotsResponse,
) -> Act {
    use SlotState::{Accepted, Arriving, Frozen, Gone, Leaving, Owned};
    let through = source.r#move.as_ref().is_none_or(|m| m.move_id != moving.move_id);
    let cursor = target.r#move.as_ref().and_then(|m| m.cursor).unwrap_or_default();
    let index = |said: &StepSlotsResponse| said.r#move.as_ref().map_or(0, |m| m.step_index);
    match (stage(moving.move_id, source, Gone), stage(moving.move_id, target, Owned)) {
        (None, _) if paused => Act::Wait,
        (None, _) => Act::Step(Side::Source, SlotAction::Leave),
        (Some(Leaving), _) if paused => Act::Wait,
        (Some(_), None) => Act::Step(Side::Target, SlotAction::Arrive),
        (Some(Leaving), Some(Arriving)) if caught_up => Act::Step(Side::Source, SlotAction::Freeze),
        (Some(Leaving), Some(Arriving)) => Act::Copy(cursor),
        (Some(Frozen), Some(Arriving)) if cursor.until == 0 && cursor.index >= index(source) => {
            Act::Step(Side::Target, SlotAction::Accept)
        }
        (Some(Frozen), Some(Arriving)) => Act::Copy(cursor),
        (Some(Frozen), Some(Accepted)) if !moving.switched => Act::Switch(index(target)),
        (Some(Frozen), Some(Accepted)) => Act::Step(Side::Source, SlotAction::Release),
        (Some(Gone), Some(Accepted)) => Act::Step(Side::Target, SlotAction::Open),
        (Some(Gone), Some(Owned)) if through => Act::End,
        (Some(Gone), Some(Owned)) if paused => Act::Wait,
        (Some(Gone), Some(Owned)) if purged => Act::Step(Side::Source, SlotAction::Forget),
        (Some(Gone), Some(Owned)) => Act::Purge,
        // No order of steps leads here; what was read at two moments may look so.
        _ => Act::Wait,
    }
}

/// Drives one move.
struct Mover {
    move_id: u64,
    source: Link,
    target: Link,
    /// Changes of the pass under way, and whether it was followed from its beginning.
    changes: usize,
    from_beginning: bool,
    passes: u32,
    caught_up: bool,
    /// Where the source goes on to remove what is left.
    purge: (u64, u64),
    purged: bool,
}

/// A group, as this move knows it.
struct Link {
    group: GroupId,
    client: Option<PlacementServiceClient<Channel>>,
    /// The replica to try next.
    turn: usize,
    /// What it said last; `None` after a failure.
    said: Option<StepSlotsResponse>,
}

impl Link {
    fn new(group: GroupId) -> Self {
        Self { group, client: None, turn: 0, said: None }
    }

    async fn client(&mut self, node: &Node, metadata: &Metadata) -> Result<PlacementServiceClient<Channel>, Status> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let group = metadata.groups.iter().find(|g| g.group_id == self.group);
        let replicas = group.map_or(&[][..], |g| &g.replicas);
        let replica = replicas.get(self.turn % replicas.len().max(1));
        let at = replica.and_then(|id| metadata.nodes.iter().find(|n| n.node_id == *id));
        let at = at.ok_or_else(|| Status::not_found(format!("no replica of group {} is known", self.group)))?;
        let client = peers::placement(&node.dialer, &at.address).await;
        self.turn += usize::from(client.is_err());
        Ok(self.client.insert(client?).clone())
    }

    /// Another replica may do better.
    fn failed(&mut self) {
        (self.client, self.said) = (None, None);
        self.turn += 1;
    }

    /// Where the group is; asked if it is not known.
    async fn said(&mut self, node: &Node, metadata: &Metadata) -> Result<StepSlotsResponse, Status> {
        match &self.said {
            Some(said) => Ok(said.clone()),
            None => self.step(node, metadata, StepSlots::default()).await,
        }
    }

    async fn step(&mut self, node: &Node, metadata: &Metadata, step: StepSlots) -> Result<StepSlotsResponse, Status> {
        let request = StepSlotsRequest { group_id: self.group, step: Some(step) };
        let mut client = self.client(node, metadata).await?;
        let said = client.step_slots(Deadline::after(PATIENCE).request(request)).await?.into_inner();
        self.said = Some(said.clone());
        Ok(said)
    }
}

impl Mover {
    fn new(moving: &SlotMove) -> Self {
        Self {
            move_id: moving.move_id,
            source: Link::new(moving.from_group_id),
            target: Link::new(moving.to_group_id),
            changes: 0,
            from_beginning: false,
            passes: 0,
            caught_up: false,
            purge: (0, 0),
            purged: false,
        }
    }

    /// Goes on for a while; returns how long to wait then.
    async fn go_on(&mut self, node: &Node) -> Duration {
        let until = Instant::now() + STRETCH;
        while Instant::now() < until {
            let metadata = node.metadata.current();
            let Some(moving) = metadata.slot_moves.iter().find(|m| m.move_id == self.move_id) else { return BUSY };
            match self.act(node, &metadata, moving).await {
                Ok(true) => {}
                Ok(false) => return WAITING,
                Err(Trouble { side, reason }) => {
                    tracing::info!(move_id = self.move_id, %reason, "a move of slots has to wait");
                    (self.source.said, self.target.said) = (None, None);
                    match side {
                        Some(Side::Source) => self.source.failed(),
                        Some(Side::Target) => self.target.failed(),
                        None => {}
                    }
                    return BUSY * 4;
                }
            }
        }
        BUSY
    }

    /// Does what comes next; false if that is to wait.
    async fn act(&mut self, node: &Node, metadata: &Metadata, moving: &SlotMove) -> Result<bool, Trouble> {
        let of = |reason: String| Trouble { side: None, reason };
        let source = self.source.said(node, metadata).await.map_err(Side::Source.trouble())?;
        let target = self.target.said(node, metadata).await.map_err(Side::Target.trouble())?;
        let act = next(moving, metadata.moves_paused, self.caught_up, self.purged, &source, &target);
        match act {
            Act::Wait => {
                (self.source.said, self.target.said) = (None, None);
                return Ok(false);
            }
            Act::Step(side, action) => {
                if action == SlotAction::Release {
                    // From then on the old map is of no use: the new one must not be known to this node alone.
                    node.wait_applied(metadata, METADATA_GROUP, node.metadata_replica.status().applied).await;
                }
                self.step(node, metadata, moving, side, action).await.map_err(side.trouble())?;
            }
            Act::Copy(cursor) => self.copy(node, metadata, cursor).await?,
            Act::Switch(slots_index) => {
                // Nor does the map send anybody to replicas that do not know yet that they serve the slots.
                node.wait_applied(metadata, self.target.group, slots_index).await;
                let command = Command::SwitchSlots(SwitchSlots { move_id: self.move_id, slots_index });
                propose(node, MetadataCommand { command: Some(command) }).await.map_err(of)?;
                tracing::info!(move_id = self.move_id, slots_index, "the map gives the slots to the new group");
            }
            Act::Purge => self.purge(node, metadata).await.map_err(Side::Source.trouble())?,
            Act::End => {
                let command = Command::EndSlotMove(EndSlotMove { move_id: self.move_id });
                propose(node, MetadataCommand { command: Some(command) }).await.map_err(of)?;
                tracing::info!(move_id = self.move_id, "slots have moved");
            }
        }
        Ok(true)
    }

    async fn step(
        &mut self,
        node: &Node,
        metadata: &Metadata,
        moving: &SlotMove,
        side: Side,
        action: SlotAction,
    ) -> Result<(), Status> {
        let imported_index = self.source.said.as_ref().and_then(|s| s.r#move.as_ref()).map_or(0, |m| m.step_index);
        let (slots, move_id) = (moving.slots.clone(), self.move_id);
        let step = StepSlots { move_id, action: action.into(), slots, imported_index };
        let link = match side {
            Side::Source => &mut self.source,
            Side::Target => &mut self.target,
        };
        let before = link.said.clone();
        let said = link.step(node, metadata, step).await?;
        if before.as_ref() == Some(&said) {
            return Err(Status::aborted(format!(
                "group {} does not take the step {}",
                link.group,
                action.as_str_name()
            )));
        }
        tracing::info!(move_id, group = link.group, step = action.as_str_name(), "slots move");
        Ok(())
    }

    /// One batch.
    async fn copy(&mut self, node: &Node, metadata: &Metadata, cursor: SlotCursor) -> Result<(), Trouble> {
        let (at_source, at_target) = (Side::Source.trouble(), Side::Target.trouble());
        let request = ExportSlotsRequest { group_id: self.source.group, move_id: self.move_id, cursor: Some(cursor) };
        let mut source = self.source.client(node, metadata).await.map_err(at_source)?;
        let read = source.export_slots(Deadline::after(PATIENCE).request(request)).await.map_err(at_source)?;
        let read = read.into_inner();
        let batch = read.batch.ok_or_else(|| at_source(Status::internal("an export without a batch")))?;
        let to = batch.to.unwrap_or_default();
        if cursor.until == 0 {
            (self.from_beginning, self.changes) = (true, 0);
        }
        self.changes += batch.removed_ids.len() + batch.records.len() + batch.answers.len();
        // No batch at all: there was nothing new.
        if to != cursor {
            let (group_id, collection_uid) = (self.target.group, read.collection_uid);
            let request = ImportSlotsRequest { group_id, collection_uid, batch: Some(batch) };
            let mut target = self.target.client(node, metadata).await.map_err(at_target)?;
            let imported = target.import_slots(Deadline::after(PATIENCE).request(request)).await.map_err(at_target)?;
            let imported = imported.into_inner();
            if let Some(current) = self.target.said.as_mut().and_then(|s| s.r#move.as_mut()) {
                current.cursor = imported.cursor;
            }
        }
        if to.until == 0 {
            self.passes += 1;
            self.caught_up = self.from_beginning && (self.changes <= FEW || self.passes >= MOST_PASSES);
        }
        Ok(())
    }

    async fn purge(&mut self, node: &Node, metadata: &Metadata) -> Result<(), Status> {
        let (collection_uid, key) = self.purge;
        let request = PurgeSlotsRequest { group_id: self.source.group, move_id: self.move_id, collection_uid, key };
        let mut source = self.source.client(node, metadata).await?;
        let done = source.purge_slots(Deadline::after(PATIENCE).request(request)).await?.into_inner();
        (self.purge, self.purged) = ((done.collection_uid, done.key), done.done);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::StoredSlotMove;

    fn at(state: SlotState, step_index: u64, index: u64) -> StepSlotsResponse {
        let cursor = Some(SlotCursor { index, ..SlotCursor::default() });
        let current =
            StoredSlotMove { move_id: 7, state: state.into(), step_index, cursor, ..StoredSlotMove::default() };
        StepSlotsResponse { r#move: Some(current), last_move_id: 7 }
    }

    fn done() -> StepSlotsResponse {
        StepSlotsResponse { r#move: None, last_move_id: 7 }
    }

    #[test]
    fn every_state_has_its_next_step() {
        use SlotState::{Accepted, Arriving, Frozen, Gone, Leaving};
        let new = StepSlotsResponse { r#move: None, last_move_id: 6 };
        let moving = |switched| SlotMove { move_id: 7, switched, ..SlotMove::default() };
        let go = |switched, source: &_, target: &_| next(&moving(switched), false, false, false, source, target);
        let (source, target) = (Side::Source, Side::Target);
        assert_eq!(go(false, &new, &new), Act::Step(source, SlotAction::Leave));
        assert_eq!(go(false, &at(Leaving, 9, 0), &new), Act::Step(target, SlotAction::Arrive));
        let copy = |index| Act::Copy(SlotCursor { index, ..SlotCursor::default() });
        assert_eq!(go(false, &at(Leaving, 9, 0), &at(Arriving, 3, 8)), copy(8));
        let caught_up = next(&moving(false), false, true, false, &at(Leaving, 9, 0), &at(Arriving, 3, 8));
        assert_eq!(caught_up, Act::Step(source, SlotAction::Freeze));
        assert_eq!(go(false, &at(Frozen, 12, 0), &at(Arriving, 3, 11)), copy(11));
        assert_eq!(go(false, &at(Frozen, 12, 0), &at(Arriving, 3, 12)), Act::Step(target, SlotAction::Accept));
        assert_eq!(go(false, &at(Frozen, 12, 0), &at(Accepted, 5, 12)), Act::Switch(5));
        assert_eq!(go(true, &at(Frozen, 12, 0), &at(Accepted, 5, 12)), Act::Step(source, SlotAction::Release));
        assert_eq!(go(true, &at(Gone, 14, 0), &at(Accepted, 5, 12)), Act::Step(target, SlotAction::Open));
        assert_eq!(go(true, &at(Gone, 14, 0), &done()), Act::Purge);
        let purged = next(&moving(true), false, false, true, &at(Gone, 14, 0), &done());
        assert_eq!(purged, Act::Step(source, SlotAction::Forget));
        assert_eq!(go(true, &done(), &done()), Act::End);
    }

    #[test]
    fn a_pause_never_holds_writes_back() {
        use SlotState::{Accepted, Arriving, Frozen, Gone, Leaving};
        let moving = SlotMove { move_id: 7, switched: true, ..SlotMove::default() };
        let paused = |source: &_, target: &_| next(&moving, true, true, false, source, target);
        assert_eq!(paused(&at(Leaving, 9, 0), &at(Arriving, 3, 8)), Act::Wait);
        for (source, target) in [(Frozen, Arriving), (Frozen, Accepted), (Gone, Accepted)] {
            assert_ne!(paused(&at(source, 12, 0), &at(target, 5, 0)), Act::Wait, "{source:?} {target:?}");
        }
        assert_eq!(paused(&at(Gone, 14, 0), &done()), Act::Wait);
    }
}
