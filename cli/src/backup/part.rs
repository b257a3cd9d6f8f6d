//! Parts of a backup: files of images, and their checks.
//!
//! A part: eight bytes, of which the last is the version; then each image as its length (4 bytes, little endian) and a
//! `BackupImage`. Its manifest says how many bytes it has and what they hash to.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::Path;

use omma_client::proto::BackupImage;
use prost::Message;
use serde::{Deserialize, Serialize};

use crate::exit::CliError;

const MAGIC: &[u8; 8] = b"ommabak\x01";
/// No image is larger: an embedding and its attributes fit many times.
const LARGEST_IMAGE: usize = 16 << 20;

/// What a manifest says of a part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// The file, beside the manifest.
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
    file: BufWriter<File>,
    hash: blake3::Hasher,
    part: Part,
}

impl PartWriter {
    pub(crate) fn create(folder: &Path, name: String) -> Result<Self, CliError> {
        let path = folder.join(&name);
        let file = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(CliError::writing(&path))?);
        let part = Part { file: name, images: 0, bytes: 0, blake3: String::new() };
        let mut writer = Self { file, hash: blake3::Hasher::new(), part };
        writer.write(folder, MAGIC)?;
        Ok(writer)
    }

    fn write(&mut self, folder: &Path, bytes: &[u8]) -> Result<(), CliError> {
        self.file.write_all(bytes).map_err(CliError::writing(&folder.join(&self.part.file)))?;
        self.hash.update(bytes);
        self.part.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(crate) fn add(&mut self, folder: &Path, encoded: &[u8]) -> Result<(), CliError> {
        self.write(folder, &(encoded.len() as u32).to_le_bytes())?;
        self.write(folder, encoded)?;
        self.part.images += 1;
        Ok(())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.part.bytes
    }

    /// Durable when this returns.
    pub(crate) fn finish(mut self, folder: &Path) -> Result<Part, CliError> {
        let path = folder.join(&self.part.file);
        self.part.blake3 = self.hash.finalize().to_hex().to_string();
        let synced = self.file.flush().and_then(|()| self.file.get_ref().sync_all());
        synced.map_err(CliError::writing(&path))?;
        Ok(self.part)
    }
}

/// Whether the part is there as its manifest says; else what is wrong.
pub(crate) fn check(folder: &Path, part: &Part) -> Result<(), CliError> {
    let path = folder.join(&part.file);
    let mut file = File::open(&path).map_err(CliError::reading(&path))?;
    let mut hash = blake3::Hasher::new();
    let bytes = std::io::copy(&mut file, &mut hash).map_err(CliError::reading(&path))?;
    if bytes == part.bytes && hash.finalize().to_hex().as_str() == part.blake3 {
        return Ok(());
    }
    Err(CliError::Failed(format!(
        "{} is damaged: it has {bytes} bytes of {}, or others than were written; restore it from another copy of the backup",
        path.display(),
        part.bytes
    )))
}

/// The images of a part that was checked, each as it is encoded.
pub(crate) fn images(
    folder: &Path,
    part: &Part,
) -> Result<impl Iterator<Item = Result<BackupImage, CliError>>, CliError> {
    let path = folder.join(&part.file);
    let mut file = BufReader::with_capacity(1 << 20, File::open(&path).map_err(CliError::reading(&path))?);
    let mut magic = [0; MAGIC.len()];
    file.read_exact(&mut magic).map_err(CliError::reading(&path))?;
    let unknown = || CliError::Failed(format!("{} is no part of a backup of this version", path.display()));
    if magic != *MAGIC {
        return Err(unknown());
    }
    let count = part.images;
    Ok((0..count).map(move |_| {
        let mut length = [0; 4];
        file.read_exact(&mut length).map_err(CliError::reading(&path))?;
        let length = u32::from_le_bytes(length) as usize;
        if length > LARGEST_IMAGE {
            return Err(CliError::Failed(format!("{} has an image of {length} bytes", path.display())));
        }
        let mut encoded = vec![0; length];
        file.read_exact(&mut encoded).map_err(CliError::reading(&path))?;
        BackupImage::decode(&encoded[..]).map_err(|e| CliError::Failed(format!("{}: {e}", path.display())))
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(n: u8) -> BackupImage {
        BackupImage { id: format!("i{n}"), embedding: vec![n; 8], ..BackupImage::default() }
    }

    #[test]
    fn parts_are_read_back_and_any_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = PartWriter::create(dir.path(), "p".to_owned()).unwrap();
        (0..9).for_each(|n| writer.add(dir.path(), &image(n).encode_to_vec()).unwrap());
        let part = writer.finish(dir.path()).unwrap();
        check(dir.path(), &part).unwrap();
        let read: Vec<_> = images(dir.path(), &part).unwrap().map(Result::unwrap).collect();
        assert_eq!(read, (0..9).map(image).collect::<Vec<_>>());
        let whole = std::fs::read(dir.path().join("p")).unwrap();
        assert_eq!(whole.len() as u64, part.bytes);
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(dir.path().join("p"), flipped).unwrap();
            assert!(check(dir.path(), &part).unwrap_err().to_string().contains("p is damaged"), "byte {at}");
        }
        std::fs::write(dir.path().join("p"), &whole[..whole.len() - 1]).unwrap();
        assert!(check(dir.path(), &part).is_err());
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
