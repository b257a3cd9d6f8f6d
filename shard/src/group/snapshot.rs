//! A snapshot on its way: read live from the state where it is sent, spooled to a file where it is received.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use omma_proto::internal::v1 as proto;

use super::state_machine::{SnapshotChunks, StateError};

/// Largest chunk that is accepted.
const MAX_CHUNK_BYTES: usize = 16 << 20;

/// What openraft passes around as a snapshot's data.
pub(super) enum SnapshotData {
    /// None: the state itself is what a local snapshot would hold.
    Local,
    /// The chunks of the state, read while they are sent.
    Live(SnapshotChunks),
    /// Received.
    Spooled(Spool),
}

impl SnapshotData {
    /// The chunks, in order.
    pub(super) fn chunks(self) -> io::Result<SnapshotChunks> {
        match self {
            Self::Local => Err(io::Error::other("a local snapshot has no data")),
            Self::Live(chunks) => Ok(chunks),
            Self::Spooled(spool) => Ok(Box::new(spool.chunks()?)),
        }
    }
}

/// Counts and digests chunks, the same way on both sides.
#[derive(Default)]
pub(super) struct Tally {
    bytes: u64,
    hasher: blake3::Hasher,
}

impl Tally {
    pub(super) fn add(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len() as u64;
        self.hasher.update(&(chunk.len() as u32).to_le_bytes());
        self.hasher.update(chunk);
    }

    pub(super) fn trailer(&self) -> proto::SnapshotTrailer {
        let digest = Bytes::copy_from_slice(self.hasher.finalize().as_bytes());
        proto::SnapshotTrailer { bytes: self.bytes, digest }
    }
}

/// A received snapshot in a file, which is removed with it. Chunks as length (4 bytes, little endian) and bytes.
pub(super) struct Spool {
    path: PathBuf,
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What is left behind is removed at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Spool {
    fn chunks(self) -> io::Result<SpoolChunks> {
        Ok(SpoolChunks { reader: BufReader::with_capacity(1 << 20, File::open(&self.path)?), _spool: self })
    }
}

/// Writes a [`Spool`]. Blocks.
pub(super) struct SpoolWriter {
    file: BufWriter<File>,
    tally: Tally,
    spool: Spool,
}

impl SpoolWriter {
    /// A new file in `folder`.
    pub(super) fn create(folder: &Path) -> io::Result<Self> {
        let path = folder.join(format!("{}.snapshot", uuid::Uuid::now_v7()));
        let file = BufWriter::with_capacity(1 << 20, File::create_new(&path)?);
        Ok(Self { file, tally: Tally::default(), spool: Spool { path } })
    }

    pub(super) fn add(&mut self, chunk: &[u8]) -> io::Result<()> {
        if chunk.len() > MAX_CHUNK_BYTES {
            return Err(io::Error::other(format!("a snapshot chunk of {} bytes", chunk.len())));
        }
        self.tally.add(chunk);
        self.file.write_all(&(chunk.len() as u32).to_le_bytes())?;
        self.file.write_all(chunk)
    }

    /// Compares with what the sender counted. Not synced: after a crash the snapshot is sent again.
    pub(super) fn finish(mut self, sent: &proto::SnapshotTrailer) -> io::Result<Spool> {
        let received = self.tally.trailer();
        if received != *sent {
            return Err(io::Error::other(format!(
                "the snapshot was damaged on its way: {} of {} bytes, digests {}",
                received.bytes,
                sent.bytes,
                if received.digest == sent.digest { "equal" } else { "differ" }
            )));
        }
        self.file.flush()?;
        Ok(self.spool)
    }
}

struct SpoolChunks {
    reader: BufReader<File>,
    _spool: Spool,
}

impl SpoolChunks {
    fn read(&mut self) -> io::Result<Option<Bytes>> {
        let mut length = [0; 4];
        match self.reader.read_exact(&mut length) {
            // Whole chunks were counted and digested before, so this is the end and not a cut.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_CHUNK_BYTES {
            return Err(io::Error::other("the spooled snapshot is damaged"));
        }
        let mut chunk = vec![0; length];
        self.reader.read_exact(&mut chunk)?;
        Ok(Some(chunk.into()))
    }
}

impl Iterator for SpoolChunks {
    type Item = Result<Bytes, StateError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.read().map_err(StateError::Transfer).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn chunks_come_out_as_they_went_in(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..3000), 0..12)) {
            let dir = tempfile::tempdir().unwrap();
            let mut writer = SpoolWriter::create(dir.path()).unwrap();
            let mut sent = Tally::default();
            for chunk in &chunks {
                writer.add(chunk).unwrap();
                sent.add(chunk);
            }
            let spool = SnapshotData::Spooled(writer.finish(&sent.trailer()).unwrap());
            let read: Vec<Vec<u8>> = spool.chunks().unwrap().map(|c| c.unwrap().to_vec()).collect();
            prop_assert_eq!(read, chunks);
            prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the spool must be removed");
        }
    }

    #[test]
    fn a_changed_or_missing_chunk_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let mut sent = Tally::default();
        sent.add(b"ab");
        sent.add(b"c");
        for received in [&[&b"ab"[..]][..], &[b"a", b"bc"], &[b"ab", b"x"]] {
            let mut writer = SpoolWriter::create(dir.path()).unwrap();
            received.iter().for_each(|chunk| writer.add(chunk).unwrap());
            assert!(writer.finish(&sent.trailer()).is_err(), "{received:?}");
        }
    }
}
