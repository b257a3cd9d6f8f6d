//! Which shard group an image belongs to, by a node's copy of the metadata.

use anyhow::{Context, Result};
use omma_common::slot::slot_of;
use omma_proto::internal::v1::{Group, Metadata};

/// The shard group that owns the slot of `id`.
///
/// # Errors
/// If no group owns it.
pub fn group_of<'m>(metadata: &'m Metadata, id: &str) -> Result<&'m Group> {
    let slot = u32::from(slot_of(id));
    let owns = |g: &&Group| g.slots.iter().any(|r| (r.first..=r.last).contains(&slot));
    metadata.groups.iter().find(owns).with_context(|| format!("no group owns slot {slot} of {id:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use omma_proto::internal::v1::SlotRange;

    #[test]
    fn each_slot_has_its_group() {
        let group =
            |group_id, first, last| Group { group_id, slots: vec![SlotRange { first, last }], ..Group::default() };
        let metadata = Metadata { groups: vec![group(1, 0, 2047), group(2, 2048, 4095)], ..Default::default() };
        for i in 0..100 {
            let id = format!("image-{i}");
            let expected = if slot_of(&id) < 2048 { 1 } else { 2 };
            assert_eq!(group_of(&metadata, &id).unwrap().group_id, expected);
        }
        assert!(group_of(&Metadata::default(), "a").is_err());
    }
}
