//! What a backup is of. A group's manifest is written when all its parts are there, the whole one's last.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::part::Part;
use super::store::Store;
use crate::exit::CliError;

pub(crate) const FORMAT: u32 = 1;

/// The whole manifest.
pub(crate) const NAME: &str = "manifest.json";
/// No manifest is larger: one of a thousand million images has some four thousand parts.
const LARGEST: u64 = 64 << 20;

/// One shard group's images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GroupManifest {
    pub(crate) format: u32,
    /// Of the collection: never used again for another.
    pub(crate) collection_uid: u64,
    /// Of the cluster map that the groups are those of.
    pub(crate) map_epoch: u64,
    pub(crate) group_id: u32,
    /// The images are those at this applied index.
    pub(crate) applied_index: u64,
    pub(crate) images: u64,
    /// Of these images, hexadecimal.
    pub(crate) digest: String,
    pub(crate) parts: Vec<Part>,
}

/// A whole backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) format: u32,
    pub(crate) collection: String,
    pub(crate) vector_space: String,
    pub(crate) dimension: u32,
    /// By its name in the protocol.
    #[serde(default)]
    pub(crate) quantization: String,
    pub(crate) images: u64,
    /// Of all images, whatever group they are in.
    pub(crate) digest: String,
    pub(crate) groups: Vec<GroupManifest>,
}

/// A group's manifest.
pub(crate) fn group_name(group: u32) -> String {
    format!("group-{group}.json")
}

/// What is there; `None` if nothing is.
pub(crate) async fn read<T: DeserializeOwned>(store: &Store, name: &str) -> Result<Option<T>, CliError> {
    let Some(bytes) = store.read(name, LARGEST).await? else { return Ok(None) };
    let damaged = |why: String| CliError::Failed(format!("{} is damaged: {why}", store.of(name)));
    decode(&bytes).map(Some).map_err(damaged)
}

/// Durable when this returns, and there whole or not at all.
pub(crate) async fn write(store: &Store, name: &str, manifest: &impl Serialize) -> Result<(), CliError> {
    Ok(store.write(name, encode(manifest).map_err(CliError::Failed)?).await?)
}

/// The first line is the checksum of the rest.
fn encode(manifest: &impl Serialize) -> Result<Vec<u8>, String> {
    let json = serde_json::to_string_pretty(manifest).map_err(|e| e.to_string())?;
    Ok(format!("blake3 {}\n{json}", blake3::hash(json.as_bytes()).to_hex()).into_bytes())
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
    let (sum, json) = text.split_once('\n').ok_or("it has one line")?;
    if sum.trim_start_matches("blake3 ") != blake3::hash(json.as_bytes()).to_hex().as_str() {
        return Err("its checksum is wrong".into());
    }
    serde_json::from_str(json).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_whole_or_refused() {
        let manifest = Manifest {
            format: FORMAT,
            collection: "a".into(),
            vector_space: "s".into(),
            dimension: 4,
            quantization: String::new(),
            images: 7,
            digest: "00".into(),
            groups: Vec::new(),
        };
        let whole = encode(&manifest).unwrap();
        assert_eq!(decode::<Manifest>(&whole), Ok(manifest));
        for at in 7..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            assert!(decode::<Manifest>(&flipped).is_err(), "byte {at}");
        }
        (0..whole.len()).for_each(|length| assert!(decode::<Manifest>(&whole[..length]).is_err(), "{length} bytes"));
    }
}
