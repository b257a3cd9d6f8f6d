//! The newest entries of one group's log, in memory. Pure.

use std::collections::VecDeque;

use super::types::Entry;

struct Kept {
    entry: Entry,
    bytes: usize,
    /// The operation that writes it to the table.
    operation: u64,
}

/// Consecutive entries up to the log's last. Empty, or without a gap to the table: what is missing at its beginning
/// is in the table.
#[derive(Default)]
pub(super) struct LogTail {
    kept: VecDeque<Kept>,
    bytes: usize,
}

impl LogTail {
    /// Index of the first entry that is kept.
    pub(super) fn first(&self) -> Option<u64> {
        self.kept.front().map(|k| k.entry.log_id.index)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds the entry that follows the last one.
    pub(super) fn push(&mut self, entry: Entry, bytes: usize, operation: u64) {
        debug_assert!(self.kept.back().is_none_or(|k| k.entry.log_id.index + 1 == entry.log_id.index));
        self.bytes += bytes;
        self.kept.push_back(Kept { entry, bytes, operation });
    }

    /// Those of `from..end`, about `budget` bytes but at least one. Nothing if `from` is not kept.
    pub(super) fn read(&self, from: u64, end: u64, budget: usize) -> Vec<Entry> {
        let Some(skip) = self.first().and_then(|first| from.checked_sub(first)) else { return Vec::new() };
        let mut bytes = 0;
        let fitting = self.kept.iter().skip(skip as usize).take(end.saturating_sub(from) as usize);
        fitting
            .enumerate()
            .take_while(|(nth, kept)| {
                bytes += kept.bytes;
                *nth == 0 || bytes <= budget
            })
            .map(|(_, kept)| kept.entry.clone())
            .collect()
    }

    /// Forgets the first entry if operation `written` or an earlier one wrote it; returns its bytes.
    pub(super) fn forget_first(&mut self, written: u64) -> Option<usize> {
        let first = self.kept.pop_front_if(|first| first.operation <= written)?;
        self.bytes -= first.bytes;
        Some(first.bytes)
    }

    /// Drops entries from index `keep` on; returns their bytes.
    pub(super) fn truncate(&mut self, keep: u64) -> usize {
        let mut freed = 0;
        while let Some(last) = self.kept.pop_back_if(|last| last.entry.log_id.index >= keep) {
            freed += last.bytes;
        }
        self.bytes -= freed;
        freed
    }

    /// Drops entries up to index `upto`; returns their bytes.
    pub(super) fn purge(&mut self, upto: u64) -> usize {
        let mut freed = 0;
        while let Some(first) = self.kept.pop_front_if(|first| first.entry.log_id.index <= upto) {
            freed += first.bytes;
        }
        self.bytes -= freed;
        freed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::types::{Leader, LogId};
    use openraft::EntryPayload;

    fn tail(indices: std::ops::Range<u64>) -> LogTail {
        let mut tail = LogTail::default();
        for index in indices {
            let log_id = LogId { leader_id: Leader { term: 1, node_id: 1 }, index };
            tail.push(Entry { log_id, payload: EntryPayload::Blank }, 10, index);
        }
        tail
    }

    fn indices(entries: Vec<Entry>) -> Vec<u64> {
        entries.iter().map(|e| e.log_id.index).collect()
    }

    #[test]
    fn reads_what_fits_but_at_least_one() {
        let tail = tail(5..10);
        assert_eq!(indices(tail.read(6, 9, 1000)), [6, 7, 8]);
        assert_eq!(indices(tail.read(6, 99, 20)), [6, 7]);
        assert_eq!(indices(tail.read(6, 99, 1)), [6]);
        assert!(tail.read(4, 9, 1000).is_empty() && tail.read(10, 12, 1000).is_empty());
    }

    #[test]
    fn keeps_what_is_not_written() {
        let mut tail = tail(5..10);
        assert_eq!(tail.forget_first(4), None);
        assert_eq!(tail.forget_first(5), Some(10));
        assert_eq!((tail.first(), tail.bytes()), (Some(6), 40));
    }

    #[test]
    fn loses_both_ends() {
        let mut tail = tail(5..10);
        assert_eq!((tail.truncate(8), tail.purge(5)), (20, 10));
        assert_eq!(indices(tail.read(6, 99, 1000)), [6, 7]);
        assert_eq!((tail.truncate(0), tail.bytes(), tail.first()), (20, 0, None));
    }
}
