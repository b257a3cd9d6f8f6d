//! Which slots a group serves, as its own log says: pure. So no map, however old, and no clock decides who may write.
//!
//! A slot that never moved is served whenever the cluster map sends requests for it. One that moves goes through the
//! states of [`SlotState`], each entered by a replicated step; steps that come late, twice or too early are refused.

use omma_common::slot::{SLOTS, SlotSet, slot_of};
use omma_proto::internal::v1::{
    SlotAction, SlotCursor, SlotHold, SlotRange, SlotState, StepSlots, StoredSlotMove, StoredSlots,
};

/// The states of a group's slots, and the move that it takes part in.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Slots {
    /// Of each slot; nothing while none ever moved.
    states: Option<Box<[SlotState]>>,
    current: Option<StoredSlotMove>,
    last_move_id: u64,
    /// Slots that ever moved and of which there may be records.
    held: SlotSet,
}

/// A step or a batch that is not the next one. It has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OutOfStep;

/// The slots of `ranges`.
pub fn slot_set(ranges: &[SlotRange]) -> SlotSet {
    let all = |r: &SlotRange| r.first..=r.last.min(u32::from(SLOTS) - 1);
    ranges.iter().flat_map(all).map(|slot| slot as u16).collect()
}

/// As few ranges as possible.
pub(crate) fn slot_ranges(set: &SlotSet) -> Vec<SlotRange> {
    set.ranges().into_iter().map(|(first, last)| SlotRange { first: first.into(), last: last.into() }).collect()
}

impl Slots {
    pub(super) fn from_stored(stored: StoredSlots) -> Self {
        let mut slots = Self { current: stored.r#move, last_move_id: stored.last_move_id, ..Self::default() };
        for hold in &stored.holds {
            slots.set(&slot_set(hold.slots.as_slice()), hold.state());
        }
        slots.settle();
        slots
    }

    pub(super) fn to_stored(&self) -> StoredSlots {
        let mut holds: Vec<SlotHold> = Vec::new();
        for (slot, state) in (0u32..).zip(self.states.iter().flat_map(|s| s.iter().copied())) {
            let state = state as i32;
            match holds.last_mut() {
                Some(SlotHold { slots: Some(range), state: last }) if *last == state => range.last = slot,
                _ => holds.push(SlotHold { slots: Some(SlotRange { first: slot, last: slot }), state }),
            }
        }
        holds.retain(|hold| hold.state() != SlotState::Unspecified);
        StoredSlots { holds, r#move: self.current.clone(), last_move_id: self.last_move_id }
    }

    pub(super) fn state(&self, slot: u16) -> SlotState {
        let states = self.states.as_ref();
        states.and_then(|s| s.get(usize::from(slot)).copied()).unwrap_or(SlotState::Unspecified)
    }

    /// The move that the group takes part in.
    pub(super) fn current(&self) -> Option<&StoredSlotMove> {
        self.current.as_ref()
    }

    pub(super) fn last_move_id(&self) -> u64 {
        self.last_move_id
    }

    /// Whether images of the slot may be written.
    pub(super) fn writes(&self, slot: u16) -> bool {
        matches!(self.state(slot), SlotState::Unspecified | SlotState::Owned | SlotState::Leaving)
    }

    /// Whether images of the slot may be read.
    pub(super) fn reads(&self, slot: u16) -> bool {
        self.writes(slot) || matches!(self.state(slot), SlotState::Accepted | SlotState::Frozen)
    }

    /// Whether all of `asked` may be read.
    pub(super) fn reads_all(&self, asked: &SlotSet) -> bool {
        self.states.is_none() || asked.iter().all(|slot| self.reads(slot))
    }

    /// All slots that may be read.
    pub(super) fn readable(&self) -> SlotSet {
        (0..SLOTS).filter(|slot| self.reads(*slot)).collect()
    }

    /// Whether there may be records of other slots than `asked`.
    pub(super) fn holds_more_than(&self, asked: &SlotSet) -> bool {
        !self.held.is_subset(asked)
    }

    /// Whether an image may be new although others of its request are known: its slot came here from another group, to
    /// which that part of the request may have been sent at first; or it is not written here, which is refused later.
    pub(super) fn may_be_new(&self, slot: u16) -> bool {
        self.state(slot) == SlotState::Owned || !self.writes(slot)
    }

    /// The slots of the move, if the group gives them away and may still change them.
    pub(super) fn is_leaving(&self, id: &str) -> bool {
        self.current.as_ref().is_some_and(|m| m.state() == SlotState::Leaving)
            && self.state(slot_of(id)) == SlotState::Leaving
    }

    /// Takes a step at log `index`.
    pub(super) fn step(&mut self, index: u64, step: &StepSlots) -> Result<(), OutOfStep> {
        let (next, before) = match step.action() {
            SlotAction::Leave | SlotAction::Arrive => return self.begin(index, step),
            SlotAction::Freeze => (SlotState::Frozen, SlotState::Leaving),
            SlotAction::Release => (SlotState::Gone, SlotState::Frozen),
            SlotAction::Accept => (SlotState::Accepted, SlotState::Arriving),
            SlotAction::Open => (SlotState::Owned, SlotState::Accepted),
            SlotAction::Forget => (SlotState::Gone, SlotState::Gone),
            SlotAction::Unspecified => return Err(OutOfStep),
        };
        let current = self.current.as_mut().filter(|m| m.move_id == step.move_id && m.state() == before);
        let current = current.ok_or(OutOfStep)?;
        if step.action() == SlotAction::Accept {
            let cursor = current.cursor.unwrap_or_default();
            if cursor.until != 0 || cursor.index < step.imported_index {
                return Err(OutOfStep);
            }
        }
        current.set_state(next);
        current.step_index = index;
        let slots = slot_set(&current.slots);
        if matches!(step.action(), SlotAction::Open | SlotAction::Forget) {
            self.current = None;
        }
        self.set(&slots, next);
        self.settle();
        Ok(())
    }

    fn begin(&mut self, index: u64, step: &StepSlots) -> Result<(), OutOfStep> {
        let slots = slot_set(&step.slots);
        let (leaves, state) = match step.action() {
            SlotAction::Leave => (true, SlotState::Leaving),
            _ => (false, SlotState::Arriving),
        };
        // What leaves must be here, and what arrives must not.
        let fits = |slot| match self.state(slot) {
            SlotState::Unspecified => true,
            SlotState::Owned => leaves,
            SlotState::Gone => !leaves,
            _ => false,
        };
        let next = self.current.is_none() && step.move_id > self.last_move_id;
        if !next || slots.is_empty() || !slots.iter().all(fits) {
            return Err(OutOfStep);
        }
        self.last_move_id = step.move_id;
        self.current = Some(StoredSlotMove {
            move_id: step.move_id,
            slots: step.slots.clone(),
            state: state.into(),
            step_index: index,
            cursor: (!leaves).then(SlotCursor::default),
            copied: 0,
        });
        self.set(&slots, state);
        self.settle();
        Ok(())
    }

    /// Takes a batch of `records` from `from` to `to`, if it is the next one.
    pub(super) fn import(
        &mut self,
        move_id: u64,
        from: SlotCursor,
        to: SlotCursor,
        records: usize,
    ) -> Result<SlotSet, OutOfStep> {
        let is_it = |m: &&mut StoredSlotMove| {
            m.move_id == move_id && m.state() == SlotState::Arriving && m.cursor.unwrap_or_default() == from
        };
        let current = self.current.as_mut().filter(is_it).ok_or(OutOfStep)?;
        current.cursor = Some(to);
        current.copied += records as u64;
        Ok(slot_set(&current.slots))
    }

    fn set(&mut self, slots: &SlotSet, state: SlotState) {
        let states = self.states.get_or_insert_with(|| vec![SlotState::Unspecified; SLOTS.into()].into());
        for slot in slots.iter() {
            states[usize::from(slot)] = state;
        }
    }

    /// After every change of states: what is gone is still held until it is forgotten.
    fn settle(&mut self) {
        let leaving = self.current.as_ref().map(|m| slot_set(&m.slots)).unwrap_or_default();
        let holds = |slot: &u16| match self.state(*slot) {
            SlotState::Unspecified => false,
            SlotState::Gone => leaving.contains(*slot),
            _ => true,
        };
        self.held = (0..SLOTS).filter(holds).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SlotAction::*;

    fn step(slots: &mut Slots, move_id: u64, action: SlotAction) -> bool {
        let ranges = vec![SlotRange { first: 10, last: 19 }];
        slots.step(7, &StepSlots { move_id, action: action.into(), slots: ranges, imported_index: 5 }).is_ok()
    }

    fn at(index: u64, until: u64) -> SlotCursor {
        SlotCursor { index, until, ..SlotCursor::default() }
    }

    #[test]
    fn the_source_gives_up_writes_before_reads() {
        let mut s = Slots::default();
        assert!(!step(&mut s, 1, Freeze) && step(&mut s, 1, Leave) && !step(&mut s, 1, Leave));
        assert!(s.reads(10) && s.writes(19) && s.writes(20) && !step(&mut s, 2, Arrive));
        assert!(!step(&mut s, 1, Release) && !step(&mut s, 2, Freeze) && step(&mut s, 1, Freeze));
        assert!(s.reads(10) && !s.writes(10) && s.writes(20));
        assert!(step(&mut s, 1, Release) && !s.reads(10) && s.holds_more_than(&SlotSet::default()));
        assert!(step(&mut s, 1, Forget) && !s.reads(10) && !s.holds_more_than(&SlotSet::default()));
        assert!(!step(&mut s, 1, Leave), "a move is not begun again");
        assert!(!step(&mut s, 2, Leave), "what is not here cannot leave");
        assert_eq!(Slots::from_stored(s.to_stored()), s);
    }

    #[test]
    fn the_target_serves_once_everything_is_there() {
        let mut s = Slots::default();
        assert!(step(&mut s, 3, Arrive) && !s.reads(10) && !s.writes(10));
        assert!(!step(&mut s, 3, Accept), "nothing was imported");
        assert!(s.import(3, at(0, 0), at(0, 5), 2).is_ok() && !step(&mut s, 3, Accept));
        assert_eq!(s.import(3, at(0, 0), at(0, 5), 2), Err(OutOfStep), "twice");
        assert!(s.import(3, at(0, 5), at(5, 0), 2).is_ok() && !step(&mut s, 3, Open) && step(&mut s, 3, Accept));
        assert!(s.reads(10) && !s.writes(10) && s.import(3, at(5, 0), at(6, 0), 1).is_err());
        assert_eq!(Slots::from_stored(s.to_stored()), s);
        assert!(step(&mut s, 3, Open) && s.writes(10) && s.may_be_new(10) && !s.may_be_new(9));
        // And back.
        assert!(
            step(&mut s, 4, Leave) && step(&mut s, 4, Freeze) && step(&mut s, 4, Release) && step(&mut s, 4, Forget)
        );
        assert!(step(&mut s, 5, Arrive) && s.current().unwrap().copied == 0);
    }

    #[test]
    fn what_is_asked_for_must_be_here() {
        let mut s = Slots::default();
        let all: SlotSet = (0..SLOTS).collect();
        assert!(s.reads_all(&all) && s.readable() == all && !s.holds_more_than(&SlotSet::default()));
        step(&mut s, 1, Arrive);
        assert!(!s.reads_all(&all) && s.reads_all(&(20..30).collect()));
        assert!(s.holds_more_than(&(20..30).collect()) && !s.holds_more_than(&(5..30).collect()));
        assert_eq!(s.readable().len(), usize::from(SLOTS) - 10);
    }
}
