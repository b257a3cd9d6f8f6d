//! The digest of a set of records: independent of their order, and cheap to keep up to date.
//!
//! Each record hashes to 128 bits (BLAKE3, truncated); the digest of a set is their sum modulo 2^128, so adding or
//! removing a record is one addition (the additive multiset hash "MSet-Add-Hash" of Clarke, Devadas, van Dijk,
//! Gassend and Suh, 2003). It finds damage and divergence; it is no defence against a forger.

use std::ops::{AddAssign, SubAssign};

use omma_proto::internal::v1::PutRecord;
use prost::Message;

use super::keys::RecordKey;

/// What a record, or a set of records, hashes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Digest(u128);

impl Digest {
    /// Of one record. Covers everything that is stored of it.
    pub(super) fn of(uid: u64, key: RecordKey, record: &PutRecord) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&uid.to_le_bytes()).update(&key.to_le_bytes());
        // Attributes are in an ordered map: a record has one encoding.
        hasher.update(&record.encode_to_vec());
        Self::from_bytes(&hasher.finalize().as_bytes()[..16])
    }

    /// The inverse of [`Digest::to_bytes`]; zero for bytes of another length.
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.try_into().map_or(0, u128::from_le_bytes))
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }
}

impl AddAssign for Digest {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

impl SubAssign for Digest {
    fn sub_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_sub(other.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(n: u64) -> PutRecord {
        PutRecord { id: n.to_string(), ..PutRecord::default() }
    }

    proptest! {
        #[test]
        fn order_does_not_matter_and_removal_undoes(mut keys in prop::collection::vec(any::<u64>(), 1..20)) {
            let sum = |keys: &[u64]| keys.iter().fold(Digest::default(), |mut d, &k| { d += Digest::of(1, k, &record(k)); d });
            let all = sum(&keys);
            keys.reverse();
            prop_assert_eq!(sum(&keys), all);
            let last = keys.pop().unwrap();
            let mut less = all;
            less -= Digest::of(1, last, &record(last));
            prop_assert_eq!(less, sum(&keys));
            prop_assert_eq!(Digest::from_bytes(&all.to_bytes()), all);
        }
    }

    #[test]
    fn every_field_counts() {
        let base = Digest::of(1, 2, &record(3));
        assert_ne!(base, Digest::of(2, 2, &record(3)));
        assert_ne!(base, Digest::of(1, 3, &record(3)));
        assert_ne!(base, Digest::of(1, 2, &record(4)));
        assert_ne!(base, Digest::of(1, 2, &PutRecord { embedding: vec![1, 2, 3, 4].into(), ..record(3) }));
        assert_ne!(base, Digest::of(1, 2, &PutRecord { content_digest: vec![1].into(), ..record(3) }));
    }
}
