//! Numbers for the record: `cargo test --release -p omma-shard attributes::measure -- --ignored --nocapture`.

use std::hint::black_box;
use std::time::Instant;

use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::range_condition::{Lower, Upper};
use omma_proto::v1::{EqualsCondition, RangeCondition};
use parking_lot::RwLock;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use roaring::RoaringTreemap;

use super::*;
use crate::index::Among;

fn value(kind: Kind) -> AttributeValue {
    AttributeValue { kind: Some(kind) }
}

/// Five attributes, like those of a shop's pictures.
fn record(rng: &mut StdRng) -> BTreeMap<String, AttributeValue> {
    let taken = prost_types::Timestamp { seconds: rng.random_range(0..1 << 30), nanos: 0 };
    BTreeMap::from([
        ("colour".to_owned(), value(Kind::StringValue(format!("colour-{}", rng.random_range(0..20))))),
        ("sku".to_owned(), value(Kind::StringValue(format!("sku-{}", rng.random::<u64>())))),
        ("sold".to_owned(), value(Kind::BoolValue(rng.random()))),
        ("price".to_owned(), value(Kind::FloatValue(rng.random_range(0.0..100.0)))),
        ("taken".to_owned(), value(Kind::TimestampValue(taken))),
    ])
}

fn price(from: f64, to: f64) -> Filter {
    let (lower, upper) = (Lower::AtLeast(value(Kind::FloatValue(from))), Upper::LessThan(value(Kind::FloatValue(to))));
    let range = RangeCondition { attribute: "price".into(), lower: Some(lower), upper: Some(upper) };
    Filter { condition: Some(Condition::Range(range)) }
}

fn colour(name: &str) -> Filter {
    let value = Some(value(Kind::StringValue(name.into())));
    Filter { condition: Some(Condition::Equals(EqualsCondition { attribute: "colour".into(), value })) }
}

fn timed<T>(what: &str, times: u32, mut work: impl FnMut() -> T) -> T {
    let started = Instant::now();
    (1..times).for_each(|_| drop(black_box(work())));
    let last = work();
    println!("  {what}: {:.1?}", started.elapsed() / times);
    last
}

#[test]
#[ignore = "measures"]
fn measure_the_index() {
    for count in [100_000u64, 1_000_000] {
        println!("{count} records with five attributes each, one to a command:");
        let mut rng = StdRng::seed_from_u64(1);
        let records: Vec<_> = (1..=count).map(|i| (i << 12, record(&mut rng))).collect();
        let mut index = timed("build", 1, || {
            let mut index = AttributeIndex::default();
            records.iter().for_each(|(key, attributes)| index.insert(*key, attributes));
            index
        });
        println!("  memory: {:.0} bytes/record", index.memory_bytes() as f64 / count as f64);
        for (what, filter) in [
            ("select price, 50 %", price(0.0, 50.0)),
            ("select price, 1 %", price(20.0, 21.0)),
            ("select price, 0.1 %", price(20.0, 20.1)),
            ("select colour, 5 %", colour("colour-3")),
        ] {
            let selection = timed(what, 20, || index.select(&filter));
            let asked: Vec<u64> = (0..1000).map(|_| records[rng.random_range(0..records.len())].0).collect();
            timed("  1000 keys asked for", 20, || asked.iter().filter(|key| selection.contains(**key)).count());
        }
        let index_lock = RwLock::new(std::mem::take(&mut index));
        let bytes = timed("export", 1, || export(&index_lock, u64::MAX));
        println!("  exported: {:.0} bytes/record", bytes.len() as f64 / count as f64);
        let mut index = timed("restore", 1, || AttributeIndex::restore(&bytes, []).unwrap());
        (1..count / 2).for_each(|i| index.remove(i << 12));
        timed("number anew with half of them gone", 1, || index.forget_the_dead());
    }
}

/// Sets of keys themselves, which need no rows, against sets of rows: size, and what `and` costs.
#[test]
#[ignore = "measures"]
fn measure_sets_of_keys_against_sets_of_rows() {
    let count = 1_000_000u64;
    for (name, per_command) in [("one record to a command", 1), ("256 records to a command", 256)] {
        println!("{name}:");
        for share in [0.5, 0.1, 0.01] {
            let mut rng = StdRng::seed_from_u64(2);
            let mut draw = || (0..count).filter(|_| rng.random_bool(share)).collect::<Vec<u64>>();
            let (a, b) = (draw(), draw());
            let key = |i: &u64| ((i / per_command + 1) << 12) + i % per_command;
            let keys = [&a, &b].map(|set| set.iter().map(key).collect::<RoaringTreemap>());
            let rows = [&a, &b].map(|set| set.iter().map(|i| *i as u32).collect::<RoaringBitmap>());
            let size = (keys[0].serialized_size() as f64, rows[0].serialized_size() as f64);
            println!(
                "  {share}: {:.2} against {:.2} bytes for each in the set",
                size.0 / a.len() as f64,
                size.1 / a.len() as f64
            );
            timed("  and, of keys", 5, || &keys[0] & &keys[1]);
            timed("  and, of rows", 5, || &rows[0] & &rows[1]);
        }
    }
}
