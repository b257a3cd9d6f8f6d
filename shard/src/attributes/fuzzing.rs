//! Exported attribute indexes, as checkpoints hold them.

use parking_lot::RwLock;

use super::{AttributeIndex, export};

/// An index that is taken is exported and taken again as the same; records leave it and enter it.
///
/// # Panics
/// If it is not the same.
pub fn attributes(bytes: &[u8]) {
    let Ok(index) = AttributeIndex::restore(bytes, [4096]) else { return };
    let index = RwLock::new(index);
    let first = export(&index, u64::MAX);
    let again = AttributeIndex::restore(&first, []).unwrap_or_else(|e| panic!("{e}"));
    assert!(export(&RwLock::new(again), u64::MAX).len() == first.len(), "another length");
    let mut index = index.into_inner();
    if let Some(next) = index.last_key().map_or(Some(1), |last| last.checked_add(1)) {
        index.insert(next, &Default::default());
        index.remove(next);
    }
}
