//! The index against asking every record, over random records, changes and filters.

use std::collections::BTreeSet;

use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::range_condition::{Lower, Upper};
use omma_proto::v1::{EqualsCondition, ExistsCondition, FilterList, InCondition, RangeCondition, StringList};
use parking_lot::RwLock;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;
use crate::index::Among;

type Records = BTreeMap<u64, BTreeMap<String, AttributeValue>>;

/// Few names and few values, near each other, so that filters hit.
fn value(rng: &mut StdRng) -> AttributeValue {
    let text = |rng: &mut StdRng| ["", "red", "green", "Red"].choose(rng).unwrap().to_string();
    let kind = match rng.random_range(0..8) {
        0 | 1 => Kind::StringValue(text(rng)),
        2 => Kind::StringListValue(StringList { values: (0..rng.random_range(0..3)).map(|_| text(rng)).collect() }),
        3 => Kind::BoolValue(rng.random()),
        4 => Kind::TimestampValue(prost_types::Timestamp { seconds: rng.random_range(-1..2), nanos: 7 }),
        5 => Kind::FloatValue(*[-0.0, 0.5, 1.0, 9_007_199_254_740_992.0, -1e300].choose(rng).unwrap()),
        6 => Kind::IntegerValue(*[9_007_199_254_740_993, i64::MIN, i64::MAX].choose(rng).unwrap()),
        _ => Kind::IntegerValue(rng.random_range(-1..2)),
    };
    AttributeValue { kind: Some(kind) }
}

fn name(rng: &mut StdRng) -> String {
    ["a", "b", "c"].choose(rng).unwrap().to_string()
}

pub(crate) fn attributes(rng: &mut StdRng) -> BTreeMap<String, AttributeValue> {
    (0..rng.random_range(0..3)).map(|_| (name(rng), value(rng))).collect()
}

pub(crate) fn filter(rng: &mut StdRng, depth: usize) -> Filter {
    let kinds = if depth == 0 { 5 } else { 8 };
    let parts = |rng: &mut StdRng| FilterList {
        filters: (0..rng.random_range(1..4)).map(|_| filter(rng, depth - 1)).collect(),
    };
    let attribute = name(rng);
    let condition = match rng.random_range(0..kinds) {
        0 => Condition::Equals(EqualsCondition { attribute, value: Some(value(rng)) }),
        1 => Condition::IsIn(InCondition { attribute, values: (0..3).map(|_| value(rng)).collect() }),
        2 => Condition::Exists(ExistsCondition { attribute }),
        3 | 4 => {
            let lower = match rng.random_range(0..3) {
                0 => None,
                1 => Some(Lower::GreaterThan(value(rng))),
                _ => Some(Lower::AtLeast(value(rng))),
            };
            let upper = match rng.random_range(0..3) {
                0 => None,
                1 => Some(Upper::LessThan(value(rng))),
                _ => Some(Upper::AtMost(value(rng))),
            };
            Condition::Range(RangeCondition { attribute, lower, upper })
        }
        5 => Condition::AllOf(parts(rng)),
        6 => Condition::AnyOf(parts(rng)),
        _ => Condition::Negation(Box::new(filter(rng, depth - 1))),
    };
    Filter { condition: Some(condition) }
}

fn selected(index: &AttributeIndex, filter: &Filter) -> Vec<u64> {
    index.select(filter).keys().collect()
}

fn agrees(index: &AttributeIndex, records: &Records, rng: &mut StdRng) -> Result<(), TestCaseError> {
    for filter in std::iter::once(Filter::default()).chain((0..12).map(|i| filter(rng, i % 3))) {
        let want = records.iter().filter(|(_, attributes)| matches(&filter, attributes)).map(|(key, _)| *key);
        prop_assert_eq!(selected(index, &filter), want.collect::<Vec<_>>(), "{:?}", filter);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever was inserted and removed, an index selects what [`matches`] says; also after it was stored.
    #[test]
    fn selects_what_matches(seed: u64, steps in prop::collection::vec((0u8..6, 1usize..2500), 1..10)) {
        let (mut rng, mut index, mut records) = (StdRng::seed_from_u64(seed), AttributeIndex::default(), Records::new());
        let mut next = 1u64;
        for (what, count) in steps {
            match what {
                0..3 => for _ in 0..count {
                    next += rng.random_range(1..4) * 4096;
                    let new = attributes(&mut rng);
                    index.insert(next, &new);
                    records.insert(next, new);
                },
                3 => {
                    // Between others, and again what is there.
                    let (key, new) = (rng.random_range(1..next + 2), attributes(&mut rng));
                    if !records.contains_key(&key) && index.keys.row_of(key).is_none() {
                        index.insert(key, &new);
                        records.insert(key, new);
                    }
                    records.keys().take(3).for_each(|key| index.insert(*key, &BTreeMap::new()));
                }
                4 => {
                    let gone: Vec<u64> = records.keys().copied().filter(|_| rng.random_bool(0.7)).collect();
                    for key in gone {
                        index.remove(key);
                        records.remove(&key);
                    }
                    // Greater than any that was drawn.
                    index.remove(next + 2);
                }
                _ => {
                    let bytes = export(&RwLock::new(std::mem::take(&mut index)), u64::MAX);
                    let gone: BTreeSet<u64> = records.keys().copied().filter(|_| rng.random_bool(0.1)).collect();
                    records.retain(|key, _| !gone.contains(key));
                    index = AttributeIndex::restore(&bytes, gone).unwrap();
                }
            }
            agrees(&index, &records, &mut rng)?;
        }
    }
}

fn numbered(count: u64) -> AttributeIndex {
    let mut index = AttributeIndex::default();
    for i in 1..=count {
        let kind = Kind::IntegerValue(i as i64);
        index.insert(i, &BTreeMap::from([("n".to_owned(), AttributeValue { kind: Some(kind) })]));
    }
    index
}

fn below(n: i64) -> Filter {
    let upper = Some(Upper::LessThan(AttributeValue { kind: Some(Kind::IntegerValue(n)) }));
    Filter { condition: Some(Condition::Range(RangeCondition { attribute: "n".into(), lower: None, upper })) }
}

#[test]
fn a_selection_knows_what_it_lost() {
    let mut index = numbered(10_000);
    let selection = index.select(&below(11));
    assert_eq!((selection.len(), selection.contains(10), selection.contains(11)), (10, true, false));
    index.insert(20_000, &BTreeMap::new());
    index.remove(5_000);
    assert!(!index.has_lost_of(&selection), "what went away was not selected");
    index.remove(3);
    assert!(index.has_lost_of(&selection));
    let selection = index.select(&below(11));
    (5_000..10_001).for_each(|key| index.remove(key));
    assert!(index.has_lost_of(&selection), "rows have other numbers now, so that it cannot be known");
}

#[test]
fn the_dead_take_no_memory() {
    let mut index = numbered(20_000);
    let full = index.memory_bytes();
    (1..=19_999).for_each(|key| index.remove(key));
    assert!(index.memory_bytes() < full / 2, "{} of {full}", index.memory_bytes());
    assert_eq!(selected(&index, &below(i64::MAX)), [20_000]);
}

#[test]
fn an_export_holds_what_the_watermark_covers() {
    let index = RwLock::new(numbered(100));
    index.write().remove(7);
    let back = AttributeIndex::restore(&export(&index, 50), [9]).unwrap();
    assert_eq!(selected(&back, &Filter::default()), (1..=50).filter(|k| ![7, 9].contains(k)).collect::<Vec<_>>());
    assert_eq!(selected(&back, &below(10)), [1, 2, 3, 4, 5, 6, 8]);
    assert_eq!(back.last_key(), Some(50));
}

proptest! {
    /// Checksums are the store's; but whatever gets past them is an error, never a panic.
    #[test]
    fn damaged_bytes_never_panic(at: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let mut bytes = export(&RwLock::new(numbered(300)), u64::MAX);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if let Ok(index) = AttributeIndex::restore(&bytes, []) {
            selected(&index, &below(100));
        }
        let _ = AttributeIndex::restore(&bytes[..cut.index(bytes.len())], []);
    }
}
