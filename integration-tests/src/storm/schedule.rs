//! Which faults, when: a pure function of the seed.

use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::vectors::generator;

/// The generator's part for schedules.
const PART: u64 = 0x5C4E_D01E;
const LONGEST_FAULT: f64 = 5.0;
/// One fault in so many begins while the one before lasts.
const OVERLAP: f64 = 0.3;

/// Whom a fault befalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    /// This shard node.
    Node(usize),
    /// The one that leads this group when the fault begins; 0 is the metadata group.
    LeaderOf(u32),
}

/// What goes wrong, until it is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9; mended by a restart.
    Kill(Victim),
    /// SIGTERM: it hands its leaderships over and ends; mended by a restart.
    Stop(Victim),
    /// kill -9 of all shard nodes, none of which sees another one die.
    KillAll,
    /// SIGSTOP; mended by SIGCONT.
    Pause(Victim),
    /// Nothing gets from the first shard node to the second; the other way is open.
    OneWay(usize, usize),
    /// Nothing between this node and the other shard nodes; coordinators still reach it.
    Split(Victim),
    /// Nothing between this node and anyone.
    Isolate(Victim),
    /// Nothing between this shard node and one coordinator.
    Unreachable(usize, usize),
    /// What this node sends and is sent takes so long.
    Slow(Victim, Duration),
}

impl Fault {
    /// For counting.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill(Victim::Node(_)) => "kill",
            Self::Kill(Victim::LeaderOf(_)) => "kill leader",
            Self::Stop(_) => "stop",
            Self::KillAll => "kill all",
            Self::Pause(_) => "pause",
            Self::OneWay(..) => "one-way cut",
            Self::Split(_) => "split",
            Self::Isolate(_) => "isolate",
            Self::Unreachable(..) => "cut from coordinator",
            Self::Slow(..) => "slow network",
        }
    }
}

/// A fault and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// After the beginning of the storm.
    pub at: Duration,
    /// Until it is mended.
    pub lasts: Duration,
    /// What.
    pub fault: Fault,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6.2} s for {:.2} s: {:?}", self.at.as_secs_f64(), self.lasts.as_secs_f64(), self.fault)
    }
}

/// The faults of `seed` on a cluster of so many nodes and shard groups, for `length`; sorted by when they begin.
pub fn draw(seed: u64, nodes: usize, groups: usize, length: Duration) -> Vec<Event> {
    let mut rng = generator(seed, PART);
    let mut events = Vec::new();
    let mut at = Duration::from_secs_f64(rng.random_range(0.3..1.0));
    while at < length {
        let lasts = Duration::from_secs_f64(rng.random_range(0.3..LONGEST_FAULT)).min(length);
        events.push(Event { at, lasts, fault: fault(&mut rng, nodes, groups) });
        let gap = Duration::from_secs_f64(rng.random_range(0.2..1.5));
        at += gap;
        if !rng.random_bool(OVERLAP) {
            at += lasts;
        }
    }
    events
}

fn fault(rng: &mut StdRng, nodes: usize, groups: usize) -> Fault {
    let node = rng.random_range(0..nodes);
    let victim = match rng.random_bool(0.5) {
        true => Victim::Node(node),
        false => Victim::LeaderOf(rng.random_range(0..=groups as u32)),
    };
    match rng.random_range(0..18) {
        0..4 => Fault::Kill(victim),
        4 => Fault::KillAll,
        5..7 => Fault::Pause(victim),
        7..9 if nodes > 1 => Fault::OneWay(node, (node + rng.random_range(1..nodes)) % nodes),
        9..11 => Fault::Split(victim),
        11..13 => Fault::Isolate(victim),
        13 => Fault::Unreachable(node, rng.random_range(0..2)),
        14..16 => Fault::Stop(victim),
        _ => Fault::Slow(victim, Duration::from_millis(rng.random_range(20..400))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_seed_has_one_schedule() {
        assert_eq!(draw(7, 3, 3, MINUTE), draw(7, 3, 3, MINUTE));
        assert_ne!(draw(7, 3, 3, MINUTE), draw(8, 3, 3, MINUTE));
        assert!(draw(7, 3, 3, MINUTE).is_sorted_by_key(|e| e.at));
    }

    #[test]
    fn all_kinds_come_up_and_name_nodes_that_are_there() {
        let all: Vec<Event> = (0..50).flat_map(|seed| draw(seed, 3, 3, MINUTE)).collect();
        let names: BTreeSet<_> = all.iter().map(|e| e.fault.name()).collect();
        assert_eq!(names.len(), 10, "{names:?}");
        for event in all {
            assert!(event.at < MINUTE && event.lasts <= Duration::from_secs(5), "{event}");
            if let Fault::OneWay(a, b) = event.fault {
                assert!(a != b && a < 3 && b < 3);
            }
        }
    }
}
