//! The bytes of an exported index: version, what is searched beside the graph, the graph.
//!
//! `OMIX`, u32 version, u32 dimension, u64 count of what is beside, for each its key (u64) and numbers (f32), the
//! graph's own bytes to the end. All little-endian.

use super::{IndexConfig, IndexError, Storage};

const MAGIC: &[u8; 4] = b"OMIX";
const VERSION: u32 = 1;
/// Of graphs in eight bits: version 1 had those that the engine scaled, 2 those with one scale for all. They cannot be
/// extended, and are built anew.
const VERSION_OF_EIGHTS: u32 = 3;
const HEAD: usize = 20;

/// An exported index, taken apart.
#[derive(Debug, PartialEq)]
pub(super) struct Parts<'a> {
    pub(super) beside: Vec<(u64, Vec<f32>)>,
    pub(super) graph: &'a [u8],
}

fn version(config: &IndexConfig) -> u32 {
    if config.storage == Storage::I8 { VERSION_OF_EIGHTS } else { VERSION }
}

/// Puts the parts together.
pub(super) fn write(config: &IndexConfig, beside: &[(u64, Vec<f32>)], graph: &[u8]) -> Vec<u8> {
    let dimension = config.dimension;
    let mut bytes = Vec::with_capacity(HEAD + beside.len() * (8 + 4 * dimension) + graph.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&version(config).to_le_bytes());
    bytes.extend_from_slice(&(dimension as u32).to_le_bytes());
    bytes.extend_from_slice(&(beside.len() as u64).to_le_bytes());
    for (key, embedding) in beside {
        bytes.extend_from_slice(&key.to_le_bytes());
        bytes.extend(embedding.iter().flat_map(|x| x.to_le_bytes()));
    }
    bytes.extend_from_slice(graph);
    bytes
}

/// Takes the bytes apart. Whether the graph's own bytes make sense is not looked at.
pub(super) fn read<'a>(bytes: &'a [u8], config: &IndexConfig) -> Result<Parts<'a>, IndexError> {
    let dimension = config.dimension;
    let damaged = |why: &str| IndexError::Checkpoint(why.into());
    let (head, rest) = bytes.split_first_chunk::<HEAD>().ok_or_else(|| damaged("too short"))?;
    let [m0, m1, m2, m3, v0, v1, v2, v3, d0, d1, d2, d3, count @ ..] = *head;
    if [m0, m1, m2, m3] != *MAGIC {
        return Err(damaged("no index"));
    }
    if u32::from_le_bytes([v0, v1, v2, v3]) != version(config) {
        return Err(damaged("another version"));
    }
    if u32::from_le_bytes([d0, d1, d2, d3]) as usize != dimension {
        return Err(damaged("another dimension"));
    }
    let entry = 8 + 4 * dimension;
    let length = (u64::from_le_bytes(count) as usize).checked_mul(entry);
    let (entries, graph) = length.and_then(|n| rest.split_at_checked(n)).ok_or_else(|| damaged("too short"))?;
    let beside = entries.chunks_exact(entry).map(|entry| {
        let (key, embedding) = entry.split_first_chunk::<8>().ok_or_else(|| damaged("too short"))?;
        let embedding = omma_common::vector::from_bytes(embedding).map_err(|why| damaged(&why.to_string()))?;
        Ok((u64::from_le_bytes(*key), embedding))
    });
    Ok(Parts { beside: beside.collect::<Result<_, IndexError>>()?, graph })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> IndexConfig {
        IndexConfig::new(2)
    }

    #[test]
    fn round_trips_and_refuses_damage() {
        let beside = vec![(4096, vec![0.5, -0.5]), (8192, vec![1.0, 0.0])];
        let bytes = write(&two(), &beside, b"graph");
        assert_eq!(read(&bytes, &two()).unwrap(), Parts { beside, graph: b"graph" });
        assert!(read(&bytes, &IndexConfig::new(3)).is_err());
        for at in 0..8 {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            assert!(read(&bad, &two()).is_err(), "byte {at}");
        }
        assert!(read(&bytes[..40], &two()).is_err());
        let mut many = bytes;
        many[12..20].fill(0xff);
        assert!(read(&many, &two()).is_err());
    }

    #[test]
    fn eight_bits_of_before_are_built_anew() {
        let eights = IndexConfig { storage: Storage::I8, ..two() };
        let bytes = write(&eights, &[], b"graph");
        assert_eq!(read(&bytes, &eights).unwrap().graph, b"graph");
        let before = write(&IndexConfig { storage: Storage::F16, ..two() }, &[], b"graph");
        assert_eq!(read(&before, &eights), Err(IndexError::Checkpoint("another version".into())));
    }

    proptest::proptest! {
        #[test]
        fn spoilt_bytes_are_refused_or_read_and_never_panic(
            hits in proptest::collection::vec((proptest::prelude::any::<proptest::sample::Index>(), proptest::prelude::any::<u8>()), 0..6),
            length in 0..200usize,
        ) {
            let mut bytes = write(&two(), &[(4096, vec![0.5, -0.5]), (8192, vec![1.0, 0.0])], b"graph");
            for (at, byte) in hits {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            bytes.truncate(length);
            let _ = read(&bytes, &two());
        }
    }
}
