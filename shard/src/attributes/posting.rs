//! A set of rows. Many values belong to a single record, so that a set of one takes no memory of its own.

use roaring::RoaringBitmap;

/// Rows that have something in common.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Posting {
    /// Just this one.
    One(u32),
    /// Any number of them.
    Many(RoaringBitmap),
}

impl Default for Posting {
    fn default() -> Self {
        Self::Many(RoaringBitmap::new())
    }
}

impl Posting {
    pub(super) fn insert(&mut self, row: u32) {
        match self {
            Self::Many(rows) if rows.is_empty() => *self = Self::One(row),
            Self::Many(rows) => drop(rows.insert(row)),
            Self::One(first) if *first == row => {}
            Self::One(first) => *self = Self::Many([*first, row].into_iter().collect()),
        }
    }

    pub(super) fn to_rows(&self) -> RoaringBitmap {
        match self {
            Self::One(row) => RoaringBitmap::from_iter([*row]),
            Self::Many(rows) => rows.clone(),
        }
    }

    /// As [`renumbered`]; `false` if nothing is left.
    pub(super) fn renumber(&mut self, new_rows: &[Option<u32>]) -> bool {
        let rows = renumbered(&self.to_rows(), new_rows);
        *self = match (rows.len(), rows.min()) {
            (1, Some(row)) => Self::One(row),
            _ => Self::Many(rows),
        };
        *self != Self::default()
    }

    /// Beyond its own size.
    pub(super) fn memory_bytes(&self) -> usize {
        match self {
            Self::One(_) => 0,
            Self::Many(rows) => rows.serialized_size(),
        }
    }
}

/// The rows under their new numbers, without those that have none. Numbers keep their order.
pub(super) fn renumbered(rows: &RoaringBitmap, new_rows: &[Option<u32>]) -> RoaringBitmap {
    rows.iter().filter_map(|row| new_rows.get(row as usize).copied().flatten()).collect()
}
