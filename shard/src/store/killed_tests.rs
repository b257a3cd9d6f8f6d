//! A store as it is after a kill at each moment of its opening, and how one that fails goes out of use.

use std::collections::BTreeMap;
use std::time::Instant;

use super::damage_tests::{copy, files};
use super::*;

const NEVER: Duration = Duration::from_secs(3600);

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(folder: &Path) -> Result<(Store, Table), StoreError> {
    let store = Store::open(folder, 4 << 20, NEVER)?;
    let table = store.table("t")?;
    Ok((store, table))
}

fn contents(table: &Table) -> Result<Entries, StoreError> {
    table.prefix(b"").map(|entry| entry.map(|(key, value)| (key.to_vec(), value.to_vec()))).collect()
}

fn put(table: &Table, keys: impl IntoIterator<Item = u32>, length: usize) {
    let mut batch = Batch::default();
    for key in keys {
        let byte = |at: usize| (at as u32).wrapping_mul(0x9E37_79B9).wrapping_add(key).to_be_bytes()[0];
        batch.insert(key.to_be_bytes(), (0..length).map(byte).collect::<Vec<u8>>());
    }
    table.apply(batch).unwrap();
}

/// A folder as a kill leaves it now, while the store is open.
fn killed(store: &Store, to: &Path) {
    copy(store.path(), to);
}

/// A store that had much in it, was killed, opened, emptied but for little, and killed again: what its older snapshot
/// points to has been cut off. Returns what is in it.
fn shrunk(dir: &Path) -> Entries {
    let (live, first) = (dir.join("live"), dir.join("first"));
    let (store, table) = open(&live).unwrap();
    put(&table, 0..600, 300);
    store.flush().unwrap();
    killed(&store, &first);
    let (store, table) = open(&first).unwrap();
    table.remove_prefix(b"").unwrap();
    // Space is given back by flushes after the one that frees it.
    for round in 0..40 {
        put(&table, [round % 8], 300);
        store.flush().unwrap();
    }
    killed(&store, &dir.join("killed"));
    contents(&table).unwrap()
}

fn metadata_file(folder: &Path, name: &str) -> PathBuf {
    folder.join("metadata").join(name)
}

/// What sled leaves if it is killed while it opens `killed`, after each of its steps, and where it is `opened`.
fn states(killed: &Path, opened: &Path, dir: &Path) -> Vec<PathBuf> {
    let named = |name: &str, number: u8| format!("{name}_{number:016x}");
    let old: Vec<_> = files(&killed.join("metadata")).iter().map(|f| f.file_name().unwrap().to_owned()).collect();
    assert!(
        ["snapshot", "log"].iter().zip([1, 2]).all(|(name, n)| old.iter().any(|f| *f == *named(name, n))),
        "{old:?}"
    );
    let snapshot = std::fs::read(metadata_file(opened, &named("snapshot", 2))).unwrap();
    let remove = |folder: &Path, name: &str| std::fs::remove_file(metadata_file(folder, name)).unwrap();
    let steps: [&dyn Fn(&Path); 5] = [
        &|folder| std::fs::write(metadata_file(folder, &(named("snapshot", 2) + ".tmp")), &snapshot[..9]).unwrap(),
        &|folder| {
            remove(folder, &(named("snapshot", 2) + ".tmp"));
            std::fs::write(metadata_file(folder, &named("snapshot", 2)), &snapshot).unwrap();
        },
        &|folder| remove(folder, &named("log", 2)),
        &|folder| remove(folder, &named("snapshot", 1)),
        &|folder| std::fs::write(metadata_file(folder, &named("log", 3)), b"").unwrap(),
    ];
    let mut before = killed.to_owned();
    let states = steps.iter().enumerate().map(|(n, step)| {
        let state = dir.join(format!("after step {n}"));
        copy(&before, &state);
        step(&state);
        before = state.clone();
        state
    });
    states.collect()
}

#[test]
fn a_kill_while_a_store_is_opened_costs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let expected = shrunk(dir.path());
    let (left, opened) = (dir.path().join("killed"), dir.path().join("opened"));
    copy(&left, &opened);
    drop(open(&opened).unwrap());
    for state in states(&left, &opened, dir.path()) {
        let mut expected = expected.clone();
        let mut folder = state;
        // What is lost is in memory yet when the store is opened for the first time.
        for start in 0..3u32 {
            let here = format!("{}, start {start}", folder.display());
            let (store, table) = open(&folder).unwrap_or_else(|e| panic!("{here}: {e}"));
            let found = contents(&table).unwrap_or_else(|e| panic!("{here}: {e}"));
            assert!(found == expected, "{here}: {} entries, not {}", found.len(), expected.len());
            put(&table, [1000 + start], 40);
            store.flush().unwrap();
            expected = contents(&table).unwrap();
            let next = folder.with_extension(format!("{start}"));
            killed(&store, &next);
            folder = next;
        }
    }
}

/// As sled left it before: the newest snapshot gone, an older one still there.
#[test]
fn a_store_that_has_lost_its_snapshot_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    shrunk(dir.path());
    let killed = dir.path().join("killed");
    let log = std::fs::read(metadata_file(&killed, "log_0000000000000002")).unwrap();
    std::fs::remove_file(metadata_file(&killed, "log_0000000000000002")).unwrap();
    std::fs::write(metadata_file(&killed, "log_0000000000000003"), &log).unwrap();
    let error = open(&killed).err().unwrap();
    assert!(matches!(&error, StoreError::Damaged { reason, .. } if reason.contains("no log 2")), "{error}");
    std::fs::remove_file(metadata_file(&killed, "snapshot_0000000000000001")).unwrap();
    assert!(matches!(open(&killed).err().unwrap(), StoreError::Damaged { .. }));
    std::fs::remove_file(metadata_file(&killed, "log_0000000000000003")).unwrap();
    let error = open(&killed).err().unwrap();
    assert!(matches!(&error, StoreError::Damaged { reason, .. } if reason.contains("gone")), "{error}");
}

#[test]
fn a_store_that_was_killed_when_it_was_made_opens() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("slabs")).unwrap();
    std::fs::write(dir.path().join("durability_cookie"), b"").unwrap();
    let (store, table) = open(dir.path()).unwrap();
    put(&table, 0..10, 10);
    drop((store, table));
    assert_eq!(contents(&open(dir.path()).unwrap().1).unwrap().len(), 10);
}

#[test]
fn nothing_changes_under_a_store_that_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _table) = open(dir.path()).unwrap();
    std::fs::write(metadata_file(dir.path(), "log_0000000000000000"), b"").unwrap();
    assert!(matches!(open(dir.path()).err().unwrap(), StoreError::Open { .. }));
    assert!(metadata_file(dir.path(), "log_0000000000000000").exists());
}

/// A flush that meets damage: sled's own thread would abort the process, and the next flush would wait for ever.
#[test]
fn a_flush_that_fails_ends_the_use_of_a_store_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), 4 << 20, Duration::from_millis(20)).unwrap();
    let table = store.table("t").unwrap();
    put(&table, 0..600, 300);
    store.flush().unwrap();
    for slab in files(&dir.path().join("slabs")) {
        std::fs::File::options().write(true).open(slab).unwrap().set_len(0).unwrap();
    }
    // What is before the rest goes, so that the flusher has to move the rest, and to read it first.
    let mut batch = Batch::default();
    (0..560u32).for_each(|key| batch.remove(key.to_be_bytes()));
    drop(table.apply(batch));
    let begun = Instant::now();
    while store.trouble().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the damage is not met");
        let mut batch = Batch::default();
        batch.insert([0], [0]);
        drop(table.apply(batch));
        std::thread::sleep(Duration::from_millis(5));
    }
    let begun = Instant::now();
    drop(store.flush());
    assert!(matches!(store.flush(), Err(StoreError::Damaged { .. })));
    assert!(matches!(table.trouble(), Some(StoreError::Damaged { .. })));
    drop((store, table));
    assert!(begun.elapsed() < Duration::from_secs(10), "closed after {:?}", begun.elapsed());
}
