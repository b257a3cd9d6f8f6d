//! Slots: the unit of placement. An image id hashes to one slot; slots belong to shard groups.

use xxhash_rust::xxh3::xxh3_64;

/// Number of slots. Fixed for ever: stored data is placed by it.
pub const SLOTS: u16 = 4096;

/// The slot of an image id: the top 12 bits of XXH3-64 (seed 0) over its UTF-8 bytes.
pub fn slot_of(id: &str) -> u16 {
    const SHIFT: u32 = u64::BITS - SLOTS.trailing_zeros();
    (xxh3_64(id.as_bytes()) >> SHIFT) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

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
