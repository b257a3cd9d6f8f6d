use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn open(dir: &tempfile::TempDir) -> Store {
    Store::open(dir.path(), 64 << 20, Duration::from_secs(1)).unwrap()
}

fn keys(entries: impl Iterator<Item = Result<(Value, Value), StoreError>>) -> Vec<Vec<u8>> {
    entries.map(|e| e.unwrap().0.to_vec()).collect()
}

#[test]
fn batches_ranges_and_prefixes() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let table = store.table("t").unwrap();
    let mut batch = Batch::default();
    for key in ["a1", "a2", "b1"] {
        batch.insert(key, key);
    }
    batch.remove("a1");
    table.apply(batch).unwrap();
    assert_eq!(keys(table.prefix(b"a")), [b"a2"]);
    assert_eq!(keys(table.range(b"a".to_vec()..)), [b"a2", b"b1"]);
    assert_eq!(table.remove_prefix(b"a").unwrap(), 1);
    assert!(!table.contains("a2").unwrap() && table.contains("b1").unwrap());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Over several leaves, with ends between entries, at them and nowhere.
    #[test]
    fn ranges_are_those_of_a_sorted_map(
        held in prop::collection::btree_set(0u8..200, 0..150), start in 0u8..210, end in 0u8..210, bounds in 0usize..6,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let table = open(&dir).table("t").unwrap();
        let mut batch = Batch::default();
        held.iter().for_each(|key| batch.insert([*key, 0], [7; 50]));
        table.apply(batch).unwrap();
        let key = |at: u8| vec![at, 0];
        let start = if bounds < 3 { Bound::Included(start) } else { Bound::Excluded(start) };
        let end = [Bound::Included(end), Bound::Excluded(end), Bound::Unbounded][bounds % 3];
        let expected: Vec<_> = held.iter().filter(|at| (start, end).contains(*at)).map(|at| key(*at)).collect();
        prop_assert_eq!(keys(table.range((start.map(key), end.map(key)))), expected);
    }
}

#[test]
fn a_flushed_store_opens_with_what_was_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut batch = Batch::default();
    (0..1000u32).for_each(|i| batch.insert(i.to_be_bytes(), vec![7; 3000]));
    store.table("t").unwrap().apply(batch).unwrap();
    store.flush().unwrap();
    drop(store);
    let store = open(&dir);
    assert_eq!(store.table("t").unwrap().prefix(b"").count(), 1000);
    store.drop_table("t").unwrap();
    assert_eq!(store.table("t").unwrap().prefix(b"").count(), 0);
}

#[test]
fn a_store_opens_after_tables_were_dropped() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..3 {
        let store = open(&dir);
        for name in ["a", "b"] {
            let table = store.table(name).unwrap();
            assert_eq!(table.prefix(b"").count(), 0, "{name} in round {round}");
            let mut batch = Batch::default();
            (0..500u32).for_each(|i| batch.insert(i.to_be_bytes(), vec![7; 3000]));
            table.apply(batch).unwrap();
            store.flush().unwrap();
            store.drop_table(name).unwrap();
        }
        store.flush().unwrap();
    }
}

#[test]
fn prefixes_end_where_the_next_begins() {
    assert_eq!(end_of(b"ab"), Some(b"ac".to_vec()));
    assert_eq!(end_of(&[1, 255]), Some(vec![2]));
    assert_eq!(end_of(&[255]), None);
    assert_eq!(end_of(b""), None);
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    let mut files: Vec<_> = entries.flat_map(|p| if p.is_dir() { files(&p) } else { vec![p] }).collect();
    files.sort();
    files
}

fn copy(from: &Path, to: &Path) {
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

#[test]
#[ignore = "slow: sled has the system sync its disks whenever it opens a store"]
fn a_flipped_byte_anywhere_is_noticed_or_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let expected = killed(dir.path());
    let left = dir.path().join("left");
    let (mut noticed, mut harmless) = (std::collections::BTreeSet::new(), 0);
    for (n, file) in files(&left).into_iter().enumerate() {
        let length = std::fs::metadata(&file).unwrap().len() as usize;
        // Opening a store takes sled a while, but for a log whose damage is seen before.
        let tries = if file.to_string_lossy().contains("log_") { 12 } else { 2 };
        for at in (n % 5..length).step_by((length / tries).max(40)) {
            let tried = dir.path().join(format!("tried-{n}-{at}"));
            copy(&left, &tried);
            let name = file.strip_prefix(&left).unwrap();
            let mut bytes = std::fs::read(&file).unwrap();
            bytes[at] ^= 0x20;
            std::fs::write(tried.join(name), bytes).unwrap();
            match contents(&tried) {
                Ok(found) => {
                    assert!(found == expected, "byte {at} of {name:?}: other contents");
                    harmless += 1;
                }
                Err(error) => {
                    assert!(matches!(&error, StoreError::Damaged { .. }), "byte {at} of {name:?}: {error}");
                    noticed.insert(name.to_owned());
                }
            }
            std::fs::remove_dir_all(&tried).unwrap();
        }
    }
    let part = |p: &str| noticed.iter().filter(|n| n.starts_with(p)).count();
    assert!(part("metadata") > 0 && part("slabs") > 0, "noticed in {noticed:?}, harmless {harmless} times");
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
        frames::check(&left).unwrap();
    }
    // As a file system leaves a file that it has made longer already.
    let mut zeros = whole.clone();
    zeros.extend([0; 64]);
    std::fs::write(&log, &zeros).unwrap();
    frames::check(&left).unwrap();
    assert!(!frames::looks_torn(&whole, 0) && frames::looks_torn(&[&[1; 100][..], &[0; 512], &[1; 9]].concat(), 412));
    assert!(!frames::looks_torn(&[&[1; 100][..], &[0; 512], &[1; 9]].concat(), 0), "not one sector");
    let mut hole = whole.clone();
    hole[20..40].fill(0);
    std::fs::write(&log, &hole).unwrap();
    let error = frames::check(&left).unwrap_err().to_string();
    assert!(error.contains(&log.display().to_string()) && error.contains("at byte 0"), "{error}");
}
