//! The handshakes that are under way: how many there may be, and which gives way.

use std::collections::{HashMap, VecDeque};

use tokio::task::AbortHandle;

use super::origin::Origin;

/// In the order in which they began; some have ended.
#[derive(Debug)]
pub(super) struct Shaking {
    /// At once.
    most: usize,
    /// Of one origin.
    each: usize,
    all: VecDeque<(Origin, AbortHandle)>,
}

impl Shaking {
    pub(super) fn new(most: usize, each: usize) -> Self {
        Self { most, each, all: VecDeque::new() }
    }

    /// Makes room for one of `origin`: its own oldest ends if it has its share, or else the oldest of whoever has most.
    pub(super) fn make_room(&mut self, origin: Origin) {
        self.all.retain(|(_, handshake)| !handshake.is_finished());
        let mut counts = HashMap::<Origin, usize>::new();
        for (other, _) in &self.all {
            *counts.entry(*other).or_default() += 1;
        }
        let giver = match counts.get(&origin) {
            Some(own) if *own >= self.each => Some(origin),
            _ if self.all.len() < self.most => None,
            _ => {
                let most = counts.values().max().copied();
                self.all.iter().map(|(other, _)| *other).find(|other| counts.get(other).copied() == most)
            }
        };
        if let Some(at) = giver.and_then(|giver| self.all.iter().position(|(other, _)| *other == giver))
            && let Some((_, handshake)) = self.all.remove(at)
        {
            handshake.abort();
        }
    }

    pub(super) fn begun(&mut self, origin: Origin, handshake: AbortHandle) {
        self.all.push_back((origin, handshake));
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinHandle;

    use super::*;

    struct Test {
        shaking: Shaking,
        begun: Vec<(u8, JoinHandle<()>)>,
    }

    impl Test {
        async fn begin(&mut self, who: u8) {
            let origin = Origin::of([10, 0, 0, who].into());
            self.shaking.make_room(origin);
            let handshake = tokio::spawn(std::future::pending());
            self.shaking.begun(origin, handshake.abort_handle());
            self.begun.push((who, handshake));
            tokio::task::yield_now().await;
        }

        /// Whose go on, oldest first.
        fn left(&self) -> Vec<u8> {
            self.begun.iter().filter(|(_, handshake)| !handshake.is_finished()).map(|(who, _)| *who).collect()
        }
    }

    #[tokio::test]
    async fn nobody_takes_more_than_a_share_and_whoever_has_most_gives_way() {
        let mut test = Test { shaking: Shaking::new(6, 3), begun: Vec::new() };
        test.begin(9).await;
        for _ in 0..20 {
            test.begin(1).await;
        }
        assert_eq!(test.left(), [9, 1, 1, 1], "the flood has its share, and the first of all goes on");
        for _ in 0..20 {
            test.begin(2).await;
        }
        // Two have not even their shares: what is beyond all gives way, never the one that is alone.
        assert_eq!((test.left().len(), test.left()[0]), (6, 9));
        test.begin(3).await;
        let left = test.left();
        assert_eq!(left.len(), 6, "{left:?}");
        assert!(left.contains(&9) && left.contains(&3), "{left:?}");
    }
}
