//! Exported indexes, as checkpoints hold them.

use super::live::LiveIndex;
use super::{IndexConfig, Storage};

/// The first byte says which storage the graph has; the rest is the export. A graph that is taken can be searched, added
/// to and exported: a wrong neighbour would be read from memory that is not the graph's.
///
/// # Panics
/// If a graph that was taken cannot be used.
pub fn graph(bytes: &[u8]) {
    let Some((storage, bytes)) = bytes.split_first() else { return };
    let storage = [Storage::F32, Storage::F16, Storage::Bf16, Storage::I8][usize::from(storage % 4)];
    let small =
        IndexConfig { storage, connectivity: 4, expansion_add: 16, expansion_search: 16, threads: 4, dimension: 4 };
    let Ok(index) = LiveIndex::restore(small, bytes, 1 << 20, [4096]) else { return };
    let _ = index.search(&[0.5; 4], 10);
    index.insert((1 << 20) + 1, [0.5; 4]);
    index.drain(10).unwrap_or_else(|e| panic!("{e}"));
    assert!(index.export().is_ok());
}
