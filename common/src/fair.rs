//! Places, or bytes, that clients share so that whoever comes next finds some: a client that has as much as is left free
//! gets no more. So one alone may have half, and the next half of the rest; while the first ones give back and take again,
//! `n` that want all they can get come to one part of `n + 1` each, and one part stays free.

mod turns;

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

pub use turns::{TooMany, Turn, Turns};

/// What is shared, and who has how much of it.
#[derive(Debug)]
pub struct Fair {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// None is zero.
    by_client: HashMap<u64, usize>,
}

impl Taken {
    fn add(&mut self, client: u64, size: usize) {
        if size > 0 {
            self.all += size;
            *self.by_client.entry(client).or_default() += size;
        }
    }

    fn of(&self, client: u64) -> usize {
        self.by_client.get(&client).copied().unwrap_or(0)
    }
}

/// A client's part, until it is dropped.
#[derive(Debug)]
pub struct Part {
    fair: Arc<Fair>,
    client: u64,
    size: usize,
}

impl Fair {
    /// `most` of it in all.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, taken: Mutex::default() })
    }

    /// All of it, taken or not.
    pub fn most(&self) -> usize {
        self.most
    }

    /// What is taken.
    pub fn taken(&self) -> usize {
        self.taken.lock().all
    }

    /// What one client has.
    pub fn taken_by(&self, client: u64) -> usize {
        self.taken.lock().of(client)
    }

    /// A part of no size, which may grow.
    pub fn nothing(self: &Arc<Self>, client: u64) -> Part {
        Part { fair: self.clone(), client, size: 0 }
    }

    /// A part of that size, if the client may have it.
    pub fn take(self: &Arc<Self>, client: u64, size: usize) -> Option<Part> {
        let mut part = self.nothing(client);
        part.grow(size).then_some(part)
    }

    /// A part of that size, whether or not the client may have it: what cannot be refused any more counts, too.
    pub fn take_anyway(self: &Arc<Self>, client: u64, size: usize) -> Part {
        self.taken.lock().add(client, size);
        Part { fair: self.clone(), client, size }
    }

    /// Whether the client would get `size` more of it.
    pub fn has_room(&self, client: u64, size: usize) -> bool {
        let taken = self.taken.lock();
        self.allows(&taken, client, size)
    }

    fn allows(&self, taken: &Taken, client: u64, size: usize) -> bool {
        let free = self.most.saturating_sub(taken.all);
        size <= free && taken.of(client) <= free
    }
}

impl Part {
    /// Makes it larger by `size`, if the client may have so much. `false`: it is as it was.
    pub fn grow(&mut self, size: usize) -> bool {
        let mut taken = self.fair.taken.lock();
        let allowed = self.fair.allows(&taken, self.client, size);
        if allowed {
            taken.add(self.client, size);
            self.size += size;
        }
        allowed
    }

    /// Whose it is.
    pub fn client(&self) -> u64 {
        self.client
    }

    /// How much it is.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut taken = self.fair.taken.lock();
        taken.all -= self.size;
        if let Some(own) = taken.by_client.get_mut(&self.client) {
            *own -= self.size;
            if *own == 0 {
                taken.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn greedy(fair: &Arc<Fair>, client: u64, into: &mut Vec<Part>) {
        into.extend(std::iter::from_fn(|| fair.take(client, 1)));
    }

    #[test]
    fn whoever_comes_next_finds_some() {
        let fair = Fair::new(1024);
        let mut held = vec![];
        for client in 1..=8 {
            greedy(&fair, client, &mut held);
            assert!(fair.taken() < 1024, "{client} clients left nothing");
        }
        assert_eq!(fair.taken_by(1), 513, "one alone may have half");
        // What they give back and take again evens out.
        for _ in 0..100 {
            for client in 1..=8 {
                let mut given_back = 0;
                held.retain(|part| {
                    part.client() != client || {
                        given_back += 1;
                        given_back > 10
                    }
                });
                greedy(&fair, client, &mut held);
            }
        }
        let each: Vec<usize> = (1..=8).map(|client| fair.taken_by(client)).collect();
        assert!(each.iter().all(|n| (100..130).contains(n)) && fair.taken() < 930, "{each:?}");
        held.clear();
        assert!(fair.taken() == 0 && fair.taken.lock().by_client.is_empty());
    }

    /// As `SECURITY.md` says of streams.
    #[test]
    fn nine_that_give_nothing_back_take_all() {
        let fair = Fair::new(512);
        let mut held = vec![];
        (1..=8).for_each(|client| greedy(&fair, client, &mut held));
        assert!(fair.has_room(9, 1));
        greedy(&fair, 9, &mut held);
        assert!(!fair.has_room(10, 1));
    }

    #[test]
    fn a_part_grows_as_far_as_it_may_and_is_given_back() {
        let fair = Fair::new(100);
        let mut one = fair.take(1, 40).unwrap();
        assert!(one.grow(20), "as much was free as it had");
        assert!(!one.grow(1) && one.size() == 60 && !fair.has_room(1, 1));
        assert!(fair.has_room(2, 40) && !fair.has_room(2, 41));
        let other = fair.take(2, 30).unwrap();
        assert!(fair.take(2, 1).is_none() && fair.take(3, 11).is_none());
        drop(one);
        assert!(fair.take(2, 1).is_some());
        drop(other);
        assert_eq!((fair.taken(), fair.taken_by(2)), (0, 0));
    }

    #[test]
    fn what_was_taken_anyway_counts() {
        let fair = Fair::new(100);
        let over = fair.take_anyway(1, 250);
        assert!(fair.take(2, 1).is_none() && fair.taken() == 250);
        drop(over);
        assert!(fair.take(2, 1).is_some());
    }

    #[test]
    fn the_only_place_can_be_taken() {
        let fair = Fair::new(1);
        let place = fair.take(1, 1).unwrap();
        assert!(fair.take(2, 1).is_none());
        drop(place);
        assert!(fair.take(2, 1).is_some());
    }
}
