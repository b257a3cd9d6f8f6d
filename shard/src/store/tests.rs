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
