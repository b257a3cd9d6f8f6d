//! The answer to a filter.

use roaring::RoaringBitmap;

use super::keys::Keys;
use crate::index::Among;

/// The records that satisfied a filter when they were selected. Holds no lock.
pub(crate) struct Selection {
    pub(super) rows: RoaringBitmap,
    pub(super) keys: Keys,
    pub(super) numbering: u64,
}

impl Among for Selection {
    fn contains(&self, key: u64) -> bool {
        self.keys.row_of(key).is_some_and(|row| self.rows.contains(row))
    }

    fn len(&self) -> usize {
        self.rows.len() as usize
    }

    fn keys(&self) -> Box<dyn Iterator<Item = u64> + '_> {
        Box::new(self.rows.iter().map(|row| self.keys.key(row)))
    }
}
