//! Damage that a store's own checksums do not notice.

use anyhow::{Context, Result, ensure};
use omma_proto::internal::v1::StoredCollection;
use omma_shard::store::{Batch, Store};
use prost::Message;

/// Changes the digests of all collections of a group in a store that nobody has open: as if apply had gone astray.
pub(crate) fn lead_astray(state: &Store, group: u32) -> Result<()> {
    let table = state.table(&format!("state.{group}.0"))?;
    let entries: Vec<_> = table.prefix(b"c").collect::<Result<_, _>>()?;
    ensure!(!entries.is_empty(), "group {group} has no collections");
    let mut batch = Batch::default();
    for (key, value) in entries {
        let (body, _) = value.split_last_chunk::<4>().context("too short")?;
        let mut stored = StoredCollection::decode(&body[1..])?;
        let mut digest = stored.digest.to_vec();
        *digest.first_mut().context("no digest")? ^= 1;
        stored.digest = digest.into();
        let mut sealed = vec![body[0]];
        stored.encode(&mut sealed)?;
        sealed.extend(crc32fast::hash(&sealed).to_le_bytes());
        batch.insert(key, sealed);
    }
    table.apply(batch)?;
    Ok(state.flush()?)
}
