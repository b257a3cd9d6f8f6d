//! Slots: the unit of placement. An image id hashes to one slot; slots belong to shard groups.

use xxhash_rust::xxh3::xxh3_64;

/// Number of slots. Fixed for ever: stored data is placed by it.
pub const SLOTS: u16 = 4096;

/// The slot of an image id: the top 12 bits of XXH3-64 (seed 0) over its UTF-8 bytes.
pub fn slot_of(id: &str) -> u16 {
    const SHIFT: u32 = u64::BITS - SLOTS.trailing_zeros();
    (xxh3_64(id.as_bytes()) >> SHIFT) as u16
}

/// A set of slots.
#[derive(Clone, PartialEq, Eq)]
pub struct SlotSet(Box<[u64; SLOTS as usize / 64]>);

impl Default for SlotSet {
    fn default() -> Self {
        Self(Box::new([0; SLOTS as usize / 64]))
    }
}

impl SlotSet {
    /// Adds a slot. One that is out of range is no matter: no image has it.
    pub fn insert(&mut self, slot: u16) {
        if let Some(word) = self.0.get_mut(usize::from(slot) / 64) {
            *word |= 1 << (slot % 64);
        }
    }

    /// Whether the slot is in it.
    pub fn contains(&self, slot: u16) -> bool {
        self.0.get(usize::from(slot) / 64).is_some_and(|word| (word >> (slot % 64)) & 1 == 1)
    }

    /// Whether all of it is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0.iter()).all(|(own, others)| own & !others == 0)
    }

    /// How many slots it has.
    pub fn len(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// In ascending order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = u16> {
        (0..SLOTS).filter(|slot| self.contains(*slot))
    }

    /// As few ranges as possible, first and last included.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for slot in self.iter() {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == slot => *last = slot,
                _ => ranges.push((slot, slot)),
            }
        }
        ranges
    }
}

impl FromIterator<u16> for SlotSet {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        let mut set = Self::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

impl std::fmt::Debug for SlotSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ranges().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_set_is_a_set() {
        let of = |slots: &[u16]| slots.iter().copied().collect::<SlotSet>();
        let set = of(&[5, 7, 6, 64, 4095, 9000]);
        assert_eq!(set.ranges(), [(5, 7), (64, 64), (4095, 4095)]);
        assert_eq!((set.len(), set.contains(6), set.contains(8), set.contains(9000)), (5, true, false, false));
        assert!(of(&[5, 64]).is_subset(&set) && !of(&[5, 63]).is_subset(&set) && of(&[]).is_subset(&of(&[])));
        assert_eq!(set.iter().collect::<BTreeSet<_>>(), [5, 6, 7, 64, 4095].into());
    }

    #[test]
    fn the_hash_never_changes() {
        // Stored data is placed by these: a failure here means that existing clusters would lose their images.
        assert_eq!(slot_of(""), 0x2d0);
        assert_eq!(slot_of("a"), slot_of("a"));
    }

    #[test]
    fn slots_fill_evenly() {
        let mut counts = vec![0u32; SLOTS as usize];
        for i in 0..409_600 {
            counts[slot_of(&format!("image-{i}")) as usize] += 1;
        }
        // 100 expected in each; 6 standard deviations.
        assert!(counts.iter().all(|&n| (40..=160).contains(&n)));
    }
}
