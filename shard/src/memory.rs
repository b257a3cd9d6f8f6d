//! What a shard node's memory is for, where its bound was given. Pure.

use crate::encoder::{MOST_DECODE_BYTES_PER_PIXEL, for_one_picture};

/// A bound below this leaves too little for anything.
pub(crate) const LEAST_MIB: u64 = 512;

/// How the memory of one process is shared out. What is left, a quarter, is for the process itself, the model's
/// sessions and messages; graphs and tails grow with what is stored, and are the operator's to leave room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shares {
    /// Of each of the two stores, and of what searches read, in bytes: a twenty-fourth.
    pub(crate) cache: usize,
    /// For decoding, in bytes: a half.
    pub(crate) decode: u64,
    /// For pictures that wait for it, in bytes: an eighth.
    pub(crate) waiting: usize,
}

impl Shares {
    /// Of `limit` MiB.
    pub(crate) fn of(limit: u64) -> Self {
        let bytes = limit.max(LEAST_MIB) << 20;
        let part = |n: u64| usize::try_from(bytes / n).unwrap_or(usize::MAX);
        Self { cache: part(24), decode: bytes / 2, waiting: part(8) }
    }

    /// Pixels of the largest picture that decodes within its share, whatever its format.
    pub(crate) fn pixels(&self) -> u64 {
        for_one_picture(self.decode) / MOST_DECODE_BYTES_PER_PIXEL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shares_are_less_than_the_whole() {
        for limit in [0, 512, 1024, 65_536] {
            let (shares, whole) = (Shares::of(limit), limit.max(LEAST_MIB) << 20);
            let sum = 3 * shares.cache as u64 + shares.decode + shares.waiting as u64;
            assert!(sum <= whole / 4 * 3 && sum > whole / 4 * 3 - 8, "{limit}");
            assert!(shares.pixels() * MOST_DECODE_BYTES_PER_PIXEL <= shares.decode);
        }
        assert!(Shares::of(1024).pixels() > 35_000_000, "most cameras' pictures fit");
    }
}
