//! Places for work that waits for its turn: each client waits in a line of its own, and the lines are served in turn. So
//! whoever asks for hundreds of things waits for its own hundreds; whoever asks for one waits for a place.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Fair;

/// Places, and who waits for them.
#[derive(Debug)]
pub struct Turns {
    state: Mutex<State>,
    waiting: Arc<Fair>,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// Places of each client, where clients share them; none is zero.
    held: Option<HashMap<u64, usize>>,
    /// None is empty.
    lines: HashMap<u64, VecDeque<oneshot::Sender<Turn>>>,
    /// Each of the lines once; the first is served next.
    order: VecDeque<u64>,
    /// Of all lines; of some, nobody waits any more.
    entries: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub struct Turn(Option<(Arc<Turns>, u64)>);

/// As many wait as may, or as may be one client's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{waiting} wait already")]
pub struct TooMany {
    /// Over all clients.
    pub waiting: usize,
}

impl Turns {
    /// `places` at once, and at most `waiting` that wait for one, which clients share as they do a [`Fair`].
    pub fn new(places: usize, waiting: usize) -> Arc<Self> {
        Self::with(places, waiting, None)
    }

    /// The same, but the places are shared in that way, too: where work may last, whoever comes next finds one.
    pub fn shared(places: usize, waiting: usize) -> Arc<Self> {
        Self::with(places, waiting, Some(HashMap::new()))
    }

    fn with(free: usize, waiting: usize, held: Option<HashMap<u64, usize>>) -> Arc<Self> {
        let state = State { free, held, lines: HashMap::new(), order: VecDeque::new(), entries: 0 };
        Arc::new(Self { state: Mutex::new(state), waiting: Fair::new(waiting) })
    }

    /// How many wait, and how many may.
    pub fn waiting(&self) -> (usize, usize) {
        (self.waiting.taken(), self.waiting.most())
    }

    /// A place for `client`, once it is its turn. Whoever stops waiting leaves its line.
    ///
    /// # Errors
    /// If too many wait.
    pub async fn take(self: &Arc<Self>, client: u64) -> Result<Turn, TooMany> {
        let too_many = || TooMany { waiting: self.waiting.taken() };
        let (_waits, turn) = {
            let mut state = self.state.lock();
            // Nobody is passed over: whoever may have a place does not wait.
            if state.may_have(client) {
                state.taken(client);
                return Ok(Turn(Some((self.clone(), client))));
            }
            let waits = self.waiting.take(client, 1).ok_or_else(too_many)?;
            (waits, state.join(client, self.waiting.taken()))
        };
        turn.await.map_err(|_| too_many())
    }

    /// A place of `client` is free: it goes to whoever's turn it is.
    fn give(self: Arc<Self>, client: u64) {
        let mut state = self.state.lock();
        state.given_back(client);
        while let Some((client, next)) = state.next() {
            state.taken(client);
            if let Err(mut back) = next.send(Turn(Some((self.clone(), client)))) {
                // Nobody waits there any more.
                back.0 = None;
                state.given_back(client);
            }
        }
    }
}

impl State {
    /// Whether a place is free for the client: where they are shared, only while as many are free as it has.
    fn may_have(&self, client: u64) -> bool {
        let own = self.held.as_ref().and_then(|held| held.get(&client)).copied().unwrap_or(0);
        self.free > 0 && own <= self.free
    }

    fn taken(&mut self, client: u64) {
        self.free -= 1;
        if let Some(held) = &mut self.held {
            *held.entry(client).or_default() += 1;
        }
    }

    fn given_back(&mut self, client: u64) {
        self.free += 1;
        if let Some(held) = &mut self.held
            && let Some(own) = held.get_mut(&client)
        {
            *own -= 1;
            if *own == 0 {
                held.remove(&client);
            }
        }
    }

    /// One more at the end of `client`'s line.
    fn join(&mut self, client: u64, waiting: usize) -> oneshot::Receiver<Turn> {
        // Those who stopped waiting are taken out when they are as many as those who wait.
        if self.entries > 2 * waiting {
            self.lines.values_mut().for_each(|line| line.retain(|entry| !entry.is_closed()));
            self.lines.retain(|_, line| !line.is_empty());
            self.order.retain(|client| self.lines.contains_key(client));
            self.entries = self.lines.values().map(VecDeque::len).sum();
        }
        let (entry, turn) = oneshot::channel();
        let line = self.lines.entry(client).or_default();
        if line.is_empty() {
            self.order.push_back(client);
        }
        line.push_back(entry);
        self.entries += 1;
        turn
    }

    /// Whoever's turn it is of those who may have a place, out of its line.
    fn next(&mut self) -> Option<(u64, oneshot::Sender<Turn>)> {
        let mut at = 0;
        while self.free > 0 {
            let client = *self.order.get(at)?;
            if !self.may_have(client) {
                at += 1;
                continue;
            }
            self.order.remove(at);
            let line = self.lines.get_mut(&client)?;
            let before = line.len();
            // Whoever stopped waiting does not take its line's turn with it.
            let next = std::iter::from_fn(|| line.pop_front()).find(|entry| !entry.is_closed());
            self.entries -= before - line.len();
            match line.is_empty() {
                true => drop(self.lines.remove(&client)),
                false => self.order.push_back(client),
            }
            if let Some(next) = next {
                return Some((client, next));
            }
        }
        None
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some((turns, client)) = self.0.take() {
            turns.give(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    /// Tasks that wait for a place, in the order in which they were added, and note when they have it.
    async fn wait(turns: &Arc<Turns>, clients: &[u64], got: &Arc<Mutex<Vec<u64>>>, tasks: &mut JoinSet<()>) {
        for client in clients.iter().copied() {
            let (turns, got) = (turns.clone(), got.clone());
            tasks.spawn(async move {
                let turn = turns.take(client).await.unwrap();
                got.lock().push(client);
                tokio::task::yield_now().await;
                drop(turn);
            });
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn lines_are_served_in_turn() {
        let (turns, got, mut tasks) = (Turns::new(1, 100), Arc::default(), JoinSet::new());
        let first = turns.take(9).await.unwrap();
        wait(&turns, &[1, 1, 1, 1, 2, 1, 3, 2], &got, &mut tasks).await;
        assert_eq!(turns.waiting(), (8, 100));
        drop(first);
        tasks.join_all().await;
        assert_eq!(*got.lock(), [1, 2, 3, 1, 2, 1, 1, 1]);
        assert_eq!(turns.waiting().0, 0);
        let state = turns.state.lock();
        assert_eq!((state.free, state.entries, state.lines.len(), state.order.len()), (1, 0, 0, 0));
    }

    #[tokio::test]
    async fn whoever_stops_waiting_is_passed_over() {
        let (turns, got, mut tasks) = (Turns::new(1, 100), Arc::default(), JoinSet::new());
        let first = turns.take(9).await.unwrap();
        for _ in 0..1000 {
            let gave_up = tokio::time::timeout(Duration::ZERO, turns.take(1)).await;
            assert!(gave_up.is_err());
        }
        assert!(turns.state.lock().entries <= 3, "{:?}", turns.state.lock().entries);
        wait(&turns, &[1, 2], &got, &mut tasks).await;
        drop(first);
        tasks.join_all().await;
        assert_eq!(*got.lock(), [1, 2]);
        assert_eq!(turns.state.lock().free, 1);
    }

    /// One that was given a place and never looked gives it back.
    #[tokio::test]
    async fn a_place_that_nobody_took_up_is_given_on() {
        let turns = Turns::new(1, 100);
        let first = turns.take(9).await.unwrap();
        let mut waiting = Box::pin(turns.take(1));
        assert!(futures::poll!(&mut waiting).is_pending());
        drop(first);
        assert_eq!(turns.state.lock().free, 0);
        drop(waiting);
        assert_eq!(turns.state.lock().free, 1);
    }

    #[tokio::test]
    async fn shared_places_are_left_to_whoever_comes_next() {
        let turns = Turns::shared(8, 100);
        let mut held = vec![];
        for _ in 0..5 {
            held.push(turns.take(1).await.unwrap());
        }
        let (mut sixth, mut seventh) = (Box::pin(turns.take(1)), Box::pin(turns.take(1)));
        assert!(futures::poll!(&mut sixth).is_pending() && futures::poll!(&mut seventh).is_pending());
        let other = turns.take(2).await.unwrap();
        drop(other);
        assert!(futures::poll!(&mut sixth).is_pending(), "it has five, and three are free");
        held.pop();
        held.push(sixth.await.unwrap());
        assert!(futures::poll!(&mut seventh).is_pending());
        drop((held, seventh));
        let state = turns.state.lock();
        assert_eq!((state.free, state.held.as_ref().map(HashMap::len), state.entries), (8, Some(0), 0));
    }

    #[tokio::test]
    async fn one_client_leaves_room_to_wait_to_others() {
        let (turns, got, mut tasks) = (Turns::new(1, 8), Arc::default(), JoinSet::new());
        let first = turns.take(9).await.unwrap();
        wait(&turns, &[1; 5], &got, &mut tasks).await;
        assert_eq!(turns.take(1).await.err(), Some(TooMany { waiting: 5 }));
        wait(&turns, &[2], &got, &mut tasks).await;
        drop(first);
        tasks.join_all().await;
        assert_eq!(*got.lock(), [1, 2, 1, 1, 1, 1]);
    }
}
