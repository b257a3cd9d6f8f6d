//! Checks a serialised graph before the engine reads it: the engine follows neighbours without looking whether they
//! exist, so a wrong number there would read memory that is not its own.
//!
//! The format (usearch 2.26): rows and bytes per row (u32 each), the rows; a head of 64 bytes (magic "usearch", three
//! u16 of version, u8 each for metric, scalar, key and slot, then u64 present, u64 deleted, u64 dimensions, u8 multi);
//! u64 size, connectivity, ground connectivity, highest level, entry slot; an i16 level per node; then per node key
//! (u64), level (i16), and per level a count (u32) and as many slots (u32) as the level has room for.

use super::{IndexConfig, Storage};

const MAGIC: &[u8] = b"usearch";
const HEAD: usize = 64;
const MAJOR: u64 = 2;
/// The engine's levels are signed: a larger one would be negative to it.
const MOST_LEVELS: u64 = i16::MAX as u64;

/// How many embeddings the graph holds, or what is wrong with it.
pub(super) fn check(bytes: &[u8], config: &IndexConfig) -> Result<usize, &'static str> {
    let mut rest = Reader(bytes);
    let (rows, row_bytes) = (rest.number(4)? as usize, rest.number(4)? as usize);
    let (kind, width) = match config.storage {
        Storage::F32 => (11, 4),
        Storage::F16 => (12, 2),
        Storage::Bf16 => (4, 2),
        Storage::I8 => (23, 1),
    };
    if row_bytes != config.dimension * width {
        return Err("embeddings of another size");
    }
    rest.take(rows.checked_mul(row_bytes).ok_or("impossibly many embeddings")?)?;
    check_head(Reader(rest.take(HEAD)?), rows, kind, config)?;

    let connectivity = [config.connectivity * 2, config.connectivity];
    let size = rest.number(8)? as usize;
    let (upper, ground) = (rest.number(8)? as usize, rest.number(8)? as usize);
    let (highest, entry) = (rest.number(8)?, rest.number(8)? as usize);
    if size != rows {
        return Err("as many nodes as embeddings it has not");
    }
    if [ground, upper] != connectivity {
        return Err("another connectivity");
    }
    if size == 0 {
        return rest.end().map(|()| 0);
    }
    let levels: Vec<u16> = rest
        .take(size.checked_mul(2).ok_or("impossibly many nodes")?)?
        .as_chunks::<2>()
        .0
        .iter()
        .map(|&b| u16::from_le_bytes(b))
        .collect();
    let entry_level = levels.get(entry).ok_or("an entry node that does not exist")?;
    if highest > MOST_LEVELS
        || highest != u64::from(*entry_level)
        || levels.iter().any(|level| u64::from(*level) > highest)
    {
        return Err("levels that do not fit together");
    }
    for &level in &levels {
        check_node(&mut rest, level, &levels, connectivity)?;
    }
    rest.end().map(|()| size)
}

fn check_head(mut head: Reader<'_>, rows: usize, kind: u64, config: &IndexConfig) -> Result<(), &'static str> {
    let metric = u64::from(if config.storage == Storage::I8 { b'c' } else { b'i' });
    const U64: u64 = 14;
    const U32: u64 = 15;
    if head.take(MAGIC.len())? != MAGIC {
        return Err("no graph");
    }
    if head.number(2)? != MAJOR {
        return Err("a graph of another engine version");
    }
    head.take(4)?;
    if [head.number(1)?, head.number(1)?, head.number(1)?, head.number(1)?] != [metric, kind, U64, U32] {
        return Err("other kinds of numbers");
    }
    if [head.number(8)?, head.number(8)?, head.number(8)?] != [rows as u64, 0, config.dimension as u64] {
        return Err("another count or dimension");
    }
    if head.number(1)? != 0 {
        return Err("several embeddings per key");
    }
    Ok(())
}

fn check_node(
    rest: &mut Reader<'_>,
    level: u16,
    levels: &[u16],
    [ground, upper]: [usize; 2],
) -> Result<(), &'static str> {
    rest.number(8)?;
    if rest.number(2)? != u64::from(level) {
        return Err("a node of another level");
    }
    for at in 0..=level {
        let room = if at == 0 { ground } else { upper };
        let count = rest.number(4)? as usize;
        let slots = rest.take(room * 4)?.as_chunks::<4>().0;
        let used = slots.get(..count).ok_or("a node with too many neighbours")?;
        // A neighbour must live on this level too, or its links there would be read from beyond its end.
        if !used.iter().all(|&slot| levels.get(u32::from_le_bytes(slot) as usize).is_some_and(|&l| l >= at)) {
            return Err("a neighbour that does not exist");
        }
    }
    Ok(())
}

/// What was not read yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], &'static str> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or("truncated")?;
        self.0 = rest;
        Ok(taken)
    }

    /// A little-endian number of `n` bytes, at most 8.
    fn number(&mut self, n: usize) -> Result<u64, &'static str> {
        Ok(self.take(n)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn end(&self) -> Result<(), &'static str> {
        if self.0.is_empty() { Ok(()) } else { Err("bytes after its end") }
    }
}
