//! Looks through sled's metadata before sled does. In a log it takes whatever follows a damaged frame for the rest of a
//! torn write and forgets it without a word: a flipped byte there would take acknowledged writes back. And it makes room
//! for as much as a frame says that it is long, before it reads: no frame may say more than its file has.
//!
//! A frame is its length (6 bytes, little endian), a check of that (2), so many bytes, and their CRC-32 (4).

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::Path;

const HEADER: usize = 8;
const CRC: usize = 4;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// sled stores its checksums so, that they are never those of nothing.
const MASK: u32 = 0xAF;

/// Fails with `InvalidData` if a log or a snapshot of the metadata is damaged. `newest`: the log that was written last, whose
/// last write may have been cut off; a snapshot has its name only once it is whole.
pub(super) fn check_file(path: &Path, newest: bool) -> io::Result<()> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let damaged = |at: u64, what: &str| {
        let message = format!("{} of {length} bytes: {what} at byte {at}", path.display());
        io::Error::new(ErrorKind::InvalidData, message)
    };
    let mut reader = BufReader::with_capacity(1 << 20, file);
    let mut at = 0;
    while at < length {
        let rest = length - at;
        let mut frame = vec![0; HEADER.min(rest as usize)];
        reader.read_exact(&mut frame)?;
        let is_short = match whole_length(&frame) {
            Some(whole) if whole <= rest => {
                frame.resize(whole as usize, 0);
                reader.read_exact(frame.get_mut(HEADER..).unwrap_or_default())?;
                false
            }
            // Without its length, a frame's end is not known.
            None if frame.len() == HEADER => {
                let was_written = frame.iter().any(|byte| *byte != 0);
                if was_written {
                    return Err(damaged(at, "the length of a frame is wrong"));
                }
                true
            }
            _ => true,
        };
        let is_last = newest && at + frame.len() as u64 == length;
        match (is_short, is_sound(&frame)) {
            (true, _) if newest => return Ok(()),
            (true, _) => return Err(damaged(at, "a frame is cut off")),
            (false, true) => {}
            (false, false) if is_last && looks_torn(&frame, at) => return Ok(()),
            (false, false) => return Err(damaged(at, "the checksum of a frame is wrong")),
        }
        at += frame.len() as u64;
    }
    Ok(())
}

/// Whether part of a frame at byte `at` was never written: a file system may make a file longer before it writes what
/// belongs there, and in any order. What is compressed has no such stretches of zeros.
pub(super) fn looks_torn(frame: &[u8], at: u64) -> bool {
    let to_sector = (SECTOR - (at as usize % SECTOR)) % SECTOR;
    let sectors = frame.get(to_sector..).unwrap_or_default().chunks_exact(SECTOR);
    frame.ends_with(&[0; CRC]) || sectors.into_iter().any(|sector| sector.iter().all(|byte| *byte == 0))
}

/// Bytes of the frame that begins with `header`; `None` if that is damaged.
fn whole_length(header: &[u8]) -> Option<u64> {
    let [l0, l1, l2, l3, l4, l5, c0, c1] = *header.first_chunk::<HEADER>()?;
    let length = [l0, l1, l2, l3, l4, l5];
    let check = crc32fast::hash(&length) as u16;
    let length = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, 0, 0]);
    (check == u16::from_le_bytes([c0, c1])).then_some(length + (HEADER + CRC) as u64)
}

fn is_sound(frame: &[u8]) -> bool {
    let parts = frame.split_last_chunk::<CRC>();
    parts.is_some_and(|(body, crc)| crc32fast::hash(body) ^ MASK == u32::from_le_bytes(*crc))
}
