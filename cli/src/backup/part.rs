//! Parts of a backup: objects full of images, and their checks.
//!
//! A part: eight bytes, of which the last is the version; then each image as its length (4 bytes, little endian) and a
//! `BackupImage`. Its manifest says how many bytes it has and what they hash to.

use bytes::{Buf, Bytes, BytesMut};
use futures::TryStreamExt;
use omma_client::proto::BackupImage;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::store::{Store, Upload};
use crate::exit::CliError;

const MAGIC: &[u8; 8] = b"ommabak\x01";
/// No image is larger: an embedding and its attributes fit many times.
const LARGEST_IMAGE: usize = 16 << 20;
/// No part is larger: it is closed after 64 MiB and what came last.
const LARGEST_PART: u64 = 256 << 20;

/// What a manifest says of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Its name, beside the manifest.
    pub(crate) file: String,
    pub(crate) images: u64,
    pub(crate) bytes: u64,
    /// BLAKE3-256, hexadecimal.
    pub(crate) blake3: String,
}

/// The digest of a set of images, whatever their order: the sum of what each hashes to. Equal for equal images, in
/// however many groups they are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SetDigest(u128);

impl SetDigest {
    pub(crate) fn add(&mut self, encoded: &[u8]) {
        let hash = blake3::hash(encoded);
        let half = hash.as_bytes().first_chunk().map_or(0, |half| u128::from_le_bytes(*half));
        self.0 = self.0.wrapping_add(half);
    }

    pub(crate) fn join(&mut self, other: &str) {
        self.0 = self.0.wrapping_add(u128::from_str_radix(other, 16).unwrap_or_default());
    }

    pub(crate) fn to_hex(self) -> String {
        format!("{:032x}", self.0)
    }
}

/// Writes a part.
pub(crate) struct PartWriter {
    upload: Upload,
    hash: blake3::Hasher,
    part: Part,
}

impl PartWriter {
    pub(crate) async fn create(store: &Store, name: String) -> Result<Self, CliError> {
        let upload = store.upload(&name).await?;
        let part = Part { file: name, images: 0, bytes: 0, blake3: String::new() };
        let mut writer = Self { upload, hash: blake3::Hasher::new(), part };
        writer.write(MAGIC).await?;
        Ok(writer)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        self.upload.write(bytes).await?;
        self.hash.update(bytes);
        self.part.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(crate) async fn add(&mut self, encoded: &[u8]) -> Result<(), CliError> {
        self.write(&(encoded.len() as u32).to_le_bytes()).await?;
        self.write(encoded).await?;
        self.part.images += 1;
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.part.bytes
    }

    /// Durable when this returns.
    pub(crate) async fn finish(mut self) -> Result<Part, CliError> {
        self.upload.finish().await?;
        self.part.blake3 = self.hash.finalize().to_hex().to_string();
        Ok(self.part)
    }

    /// Nothing of it stays.
    pub(crate) async fn abort(self) {
        self.upload.abort().await;
    }
}

/// Whether the part is there as its manifest says; else what is wrong.
pub(crate) async fn check(store: &Store, part: &Part) -> Result<(), CliError> {
    verify(store, part, |_| ()).await
}

/// All of a part that is as its manifest says; else what is wrong.
pub(crate) async fn load(store: &Store, part: &Part) -> Result<Bytes, CliError> {
    if part.bytes > LARGEST_PART {
        let text = format!("{} would have {} bytes, which no part of a backup has", store.of(&part.file), part.bytes);
        return Err(CliError::Failed(text));
    }
    let mut all = BytesMut::with_capacity(part.bytes as usize);
    verify(store, part, |chunk| all.extend_from_slice(chunk)).await?;
    Ok(all.freeze())
}

async fn verify(store: &Store, part: &Part, mut each: impl FnMut(&[u8])) -> Result<(), CliError> {
    let (name, bytes) = (store.of(&part.file), part.bytes);
    let damaged = |what: String| {
        CliError::Failed(format!("{name} is damaged: {what}; restore it from another copy of the backup"))
    };
    match store.size(&part.file).await? {
        Some(size) if size == bytes => {}
        Some(size) => return Err(damaged(format!("it has {size} bytes of {bytes}"))),
        None => return Err(damaged("it is not there".into())),
    }
    let mut hash = blake3::Hasher::new();
    let mut chunks = std::pin::pin!(store.chunks(&part.file, bytes));
    while let Some(chunk) = chunks.try_next().await? {
        hash.update(&chunk);
        each(&chunk);
    }
    match hash.finalize().to_hex().as_str() == part.blake3 {
        true => Ok(()),
        false => Err(damaged("it has other bytes than were written".into())),
    }
}

/// The images of a part that was loaded. `name` is for people.
pub(crate) fn images(
    name: String,
    part: &Part,
    mut bytes: Bytes,
) -> Result<impl Iterator<Item = Result<BackupImage, CliError>>, CliError> {
    if bytes.len() < MAGIC.len() || bytes.split_to(MAGIC.len()) != MAGIC[..] {
        return Err(CliError::Failed(format!("{name} is no part of a backup of this version")));
    }
    Ok((0..part.images).map(move |_| {
        let short = || CliError::Failed(format!("{name} has fewer images than its manifest says"));
        let length = bytes.try_get_u32_le().map_err(|_| short())? as usize;
        if length > LARGEST_IMAGE {
            return Err(CliError::Failed(format!("{name} has an image of {length} bytes")));
        }
        if length > bytes.len() {
            return Err(short());
        }
        BackupImage::decode(bytes.split_to(length)).map_err(|e| CliError::Failed(format!("{name}: {e}")))
    }))
}

#[cfg(test)]
mod tests {
    use super::super::place::Place;
    use super::super::store::For;
    use super::*;

    fn image(n: u8) -> BackupImage {
        BackupImage { id: format!("i{n}"), embedding: vec![n; 8], ..BackupImage::default() }
    }

    #[tokio::test]
    async fn parts_are_read_back_and_any_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::Folder(dir.path().to_owned());
        let store = Store::open(place, For::Writing).await.unwrap();
        let mut writer = PartWriter::create(&store, "p".to_owned()).await.unwrap();
        for n in 0..9 {
            writer.add(&image(n).encode_to_vec()).await.unwrap();
        }
        let part = writer.finish().await.unwrap();
        check(&store, &part).await.unwrap();
        let whole = load(&store, &part).await.unwrap();
        let read: Vec<_> = images("p".into(), &part, whole.clone()).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, (0..9).map(image).collect::<Vec<_>>());
        assert_eq!(whole.len() as u64, part.bytes);
        for at in 0..whole.len() {
            let mut flipped = whole.to_vec();
            flipped[at] ^= 1;
            std::fs::write(dir.path().join("p"), flipped).unwrap();
            assert!(check(&store, &part).await.unwrap_err().to_string().contains("p is damaged"), "byte {at}");
            assert!(load(&store, &part).await.is_err());
        }
        std::fs::write(dir.path().join("p"), &whole[..whole.len() - 1]).unwrap();
        assert!(check(&store, &part).await.is_err());
        let short = Part { images: 10, ..part.clone() };
        assert_eq!(images("p".into(), &short, whole.clone()).unwrap().filter(Result::is_err).count(), 1);
        assert!(load(&store, &Part { bytes: u64::MAX, ..part }).await.is_err());
    }

    #[test]
    fn a_set_has_one_digest_however_it_is_divided() {
        let digest = |images: &[u8]| {
            let mut digest = SetDigest::default();
            images.iter().for_each(|n| digest.add(&image(*n).encode_to_vec()));
            digest
        };
        let mut halves = digest(&[1, 2]);
        halves.join(&digest(&[4, 3]).to_hex());
        assert_eq!(halves, digest(&[4, 2, 3, 1]));
        assert_ne!(digest(&[1, 2]), digest(&[1, 3]));
    }
}
