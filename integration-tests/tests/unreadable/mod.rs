//! Damage of the bytes on disk that one value of a store is in.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use omma_shard::store::Store;

/// The key of a group's vote in the table of a Raft store's logs.
pub(crate) fn vote_key(group: u32) -> Vec<u8> {
    [&group.to_be_bytes()[..], &[0; 9]].concat()
}

/// Flips bits of the file that holds the value at `key`, in a store that nobody has open. It still opens: what it keeps
/// in its slabs it reads when it is asked for it.
pub(crate) fn make(store: &Path, table: &str, key: &[u8]) -> Result<()> {
    let tried = store.with_extension("tried");
    for entry in std::fs::read_dir(store.join("slabs"))? {
        let slab = entry?.path();
        let slot: usize = slab.file_name().and_then(|n| n.to_str()).context("no name")?.parse()?;
        let mut bytes = std::fs::read(&slab)?;
        if bytes.is_empty() {
            continue;
        }
        bytes.chunks_mut(slot).for_each(|slot| slot[slot.len() / 2] ^= 0x10);
        copy(store, &tried)?;
        std::fs::write(tried.join("slabs").join(slot.to_string()), &bytes)?;
        let opened = Store::open(&tried, 16 << 20, Duration::from_secs(60)).and_then(|store| store.table(table));
        let hit = opened.is_ok_and(|table| table.get(key).is_err());
        std::fs::remove_dir_all(&tried)?;
        if hit {
            return Ok(std::fs::write(&slab, bytes)?);
        }
    }
    bail!("no file of {} holds {key:?} alone", store.display())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let copied = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy(&entry.path(), &copied)?,
            false => drop(std::fs::copy(entry.path(), copied)?),
        }
    }
    Ok(())
}
