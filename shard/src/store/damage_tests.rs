//! What becomes of a store whose files were damaged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, IteratorRandom};
use rand::{Rng, SeedableRng};

use super::*;

pub(super) fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect();
    files.sort();
    files
}

pub(super) fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let copied = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copied.parent().unwrap()).unwrap();
        std::fs::copy(&file, copied).unwrap();
    }
}

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// What is in a store, in two tables; an error if it is damaged.
fn contents(folder: &Path) -> Result<Entries, StoreError> {
    let store = Store::open(folder, 4 << 20, Duration::from_secs(60))?;
    let entries = ["a", "b"].into_iter().map(|name| Ok(store.table(name)?.prefix(b"").collect::<Vec<_>>()));
    let entries: Vec<_> = entries.collect::<Result<Vec<_>, StoreError>>()?;
    let result = entries.into_iter().flatten().map(|e| e.map(|(k, v)| (k.to_vec(), v.to_vec()))).collect();
    if let Err(error) = &result {
        assert!(store.trouble().is_some_and(|t| t.to_string() == error.to_string()), "{error}");
    }
    result
}

/// A store as a killed process leaves it, and what was flushed into it.
fn killed(dir: &Path) -> Entries {
    let (live, left) = (dir.join("live"), dir.join("left"));
    let store = Store::open(&live, 4 << 20, Duration::from_secs(60)).unwrap();
    for round in 0..12u32 {
        for name in ["a", "b"] {
            let mut batch = Batch::default();
            let value = |i: u32| (0..700 + i).map(|n| (n * 7 + round * 31 + i) as u8).collect::<Vec<u8>>();
            (0..40u32).for_each(|i| batch.insert((round % 3 * 100 + i).to_be_bytes(), value(i)));
            store.table(name).unwrap().apply(batch).unwrap();
        }
        store.flush().unwrap();
    }
    copy(&live, &left);
    let whole = dir.join("whole");
    copy(&left, &whole);
    let expected = contents(&whole).unwrap();
    assert_eq!(expected.len(), 240);
    expected
}

/// The store in `left` with one bit flipped, in a file and at a place that `rng` draws; says where. Mostly in what most
/// depends on, and in what is most.
fn flipped(left: &Path, to: &Path, rng: &mut StdRng) -> (String, String) {
    let part =
        ["metadata", "metadata", "metadata", "slabs", "slabs", "slabs", "durability_cookie"].choose(rng).unwrap();
    let within = |file: &PathBuf| file.strip_prefix(left).unwrap().starts_with(part);
    let drawn = files(left).into_iter().filter(|f| within(f) && std::fs::metadata(f).unwrap().len() > 0);
    let file = drawn.choose(rng).unwrap();
    copy(left, to);
    let name = file.strip_prefix(left).unwrap();
    let mut bytes = std::fs::read(&file).unwrap();
    let at = rng.random_range(0..bytes.len());
    bytes[at] ^= 1 << rng.random_range(0..8);
    std::fs::write(to.join(name), bytes).unwrap();
    (part.to_string(), format!("byte {at} of {}", name.display()))
}

/// `OMMA_SEED` says which flips, `OMMA_FLIPS` how many: few by default, as sled has the system sync its disks whenever it
/// opens a store.
#[test]
fn a_flipped_bit_anywhere_is_noticed_or_does_no_harm() {
    let number = |name: &str| std::env::var(name).ok().map(|v| v.parse::<u64>().unwrap());
    let (seed, flips) = (number("OMMA_SEED").unwrap_or_else(rand::random), number("OMMA_FLIPS").unwrap_or(8));
    println!("OMMA_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let expected = killed(dir.path());
    let (left, tried) = (dir.path().join("left"), dir.path().join("tried"));
    let (mut noticed, mut harmless) = (BTreeMap::<_, usize>::new(), 0);
    for _ in 0..flips {
        let (part, place) = flipped(&left, &tried, &mut rng);
        match contents(&tried) {
            Ok(found) => {
                assert!(found == expected, "OMMA_SEED={seed}: {place}: other contents");
                harmless += 1;
            }
            Err(error) => {
                let damaged = matches!(&error, StoreError::Damaged { .. });
                assert!(damaged, "OMMA_SEED={seed}: {place}: {error}");
                *noticed.entry(part).or_default() += 1;
            }
        }
        std::fs::remove_dir_all(&tried).unwrap();
    }
    println!("noticed {noticed:?}, harmless {harmless} times");
    assert!(flips < 100 || noticed.len() == 3, "noticed {noticed:?}");
}

/// sled would say it for ever: whoever collects what is read would fill the memory with it.
#[test]
fn damage_ends_a_range() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path());
    let left = dir.path().join("left");
    let slab = files(&left.join("slabs")).into_iter().max_by_key(|f| std::fs::metadata(f).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&slab).unwrap();
    bytes.iter_mut().step_by(64).for_each(|byte| *byte ^= 1);
    std::fs::write(&slab, bytes).unwrap();
    let table = Store::open(&left, 4 << 20, Duration::from_secs(60)).unwrap().table("a").unwrap();
    let read: Vec<_> = table.prefix(b"").take(1000).collect();
    assert!(matches!(read.last(), Some(Err(StoreError::Damaged { .. }))), "{:?}", read.last());
    assert_eq!(read.iter().filter(|entry| entry.is_err()).count(), 1);
    assert!(table.range(b"".to_vec()..).last().unwrap().is_err());
}

#[test]
fn a_log_whose_last_write_was_cut_off_is_no_damage_but_a_hole_is() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path());
    let left = dir.path().join("left");
    let log = files(&left.join("metadata")).into_iter().rfind(|f| f.to_string_lossy().contains("log_")).unwrap();
    let whole = std::fs::read(&log).unwrap();
    for cut in [1, 3, 9, 40] {
        std::fs::write(&log, &whole[..whole.len() - cut]).unwrap();
        metadata::prepare(&left).unwrap();
    }
    // As a file system leaves a file that it has made longer already.
    let mut zeros = whole.clone();
    zeros.extend([0; 64]);
    std::fs::write(&log, &zeros).unwrap();
    metadata::prepare(&left).unwrap();
    assert!(!frames::looks_torn(&whole, 0) && frames::looks_torn(&[&[1; 100][..], &[0; 512], &[1; 9]].concat(), 412));
    assert!(!frames::looks_torn(&[&[1; 100][..], &[0; 512], &[1; 9]].concat(), 0), "not one sector");
    let mut hole = whole.clone();
    hole[20..40].fill(0);
    std::fs::write(&log, &hole).unwrap();
    let error = metadata::prepare(&left).unwrap_err().to_string();
    assert!(error.contains(&log.display().to_string()) && error.contains("at byte 0"), "{error}");
}

#[test]
fn a_snapshot_of_the_metadata_must_be_whole() {
    let dir = tempfile::tempdir().unwrap();
    killed(dir.path());
    // Opened once more, a store has written one.
    let whole = dir.path().join("whole");
    let named = |f: &PathBuf| f.file_name().unwrap().to_string_lossy().starts_with("snapshot_");
    let snapshot = files(&whole.join("metadata")).into_iter().find(named).unwrap();
    metadata::prepare(&whole).unwrap();
    let bytes = std::fs::read(&snapshot).unwrap();
    std::fs::write(&snapshot, &bytes[..bytes.len() - 1]).unwrap();
    assert!(metadata::prepare(&whole).unwrap_err().to_string().contains("cut off"));
    // A length of its own, with its own check: sled would make room for it before it reads.
    let length = (1u64 << 47).to_le_bytes();
    let mut long = bytes;
    long[..6].copy_from_slice(&length[..6]);
    let check = crc32fast::hash(&long[..6]) as u16;
    long[6..8].copy_from_slice(&check.to_le_bytes());
    std::fs::write(&snapshot, &long).unwrap();
    let error = Store::open(&whole, 4 << 20, Duration::from_secs(60)).err().unwrap();
    assert!(matches!(&error, StoreError::Damaged { .. }), "{error}");
}
