//! Messages that are not whole yet, of all connections, and which of them gives way when there is no room for more.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Waker};

use parking_lot::Mutex;

use crate::fair::{Fair, Part};

#[derive(Debug)]
struct Half {
    /// `None`: it gives way.
    part: Option<Part>,
    waker: Option<Waker>,
}

#[derive(Debug)]
pub(super) struct Halves {
    memory: Arc<Fair>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By when they began: numbers grow.
    by_age: BTreeMap<u64, Half>,
    last: u64,
}

impl Halves {
    pub(super) fn new(memory: Arc<Fair>) -> Self {
        Self { memory, state: Mutex::default() }
    }

    /// A message of which nothing has come yet.
    pub(super) fn begin(&self, client: u64) -> u64 {
        let mut state = self.state.lock();
        state.last += 1;
        let id = state.last;
        state.by_age.insert(id, Half { part: Some(self.memory.nothing(client)), waker: None });
        id
    }

    /// The message needs `bytes` more. If its client may not have them, the oldest gives way of those messages whose
    /// clients have as much as it, or more: its own are among them. `false`: it gives way itself.
    pub(super) fn grow(&self, id: u64, bytes: usize) -> bool {
        let mut state = self.state.lock();
        loop {
            let Some(part) = state.by_age.get_mut(&id).and_then(|half| half.part.as_mut()) else { return false };
            if part.grow(bytes) {
                return true;
            }
            let own = self.memory.taken_by(part.client());
            let has_as_much = |half: &Half| half.part.as_ref().is_some_and(|p| self.memory.taken_by(p.client()) >= own);
            let Some((oldest, half)) = state.by_age.iter_mut().find(|(_, half)| has_as_much(half)) else {
                return false;
            };
            // What it has is free at once: its task drops it as soon as it runs.
            half.part = None;
            half.waker.take().into_iter().for_each(Waker::wake);
            if *oldest == id {
                return false;
            }
        }
    }

    /// Whether the message has to give way; else whoever waits for more of it is woken when it has to.
    pub(super) fn gives_way(&self, id: u64, cx: &Context<'_>) -> bool {
        let mut state = self.state.lock();
        let Some(half) = state.by_age.get_mut(&id) else { return false };
        half.waker = Some(cx.waker().clone());
        half.part.is_none()
    }

    /// The message is whole, or will never be. What it has, unless it gave way.
    pub(super) fn end(&self, id: u64) -> Option<Part> {
        self.state.lock().by_age.remove(&id).and_then(|half| half.part)
    }

    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.state.lock().by_age.len()
    }
}
