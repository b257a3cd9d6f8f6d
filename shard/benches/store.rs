//! Appends to the store: one flush for so many values of an embedding's size, as the log's writer makes them.

// Benches fail by panicking, as tests do.
#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use omma_shard::store::{Batch, Store};

/// Of a log entry with one image of 512 dimensions.
const VALUE: u64 = 2_100;
const CACHE: usize = 64 << 20;
const NEVER: Duration = Duration::from_secs(3600);

fn appends(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(folder.path(), CACHE, NEVER).expect("a store");
    let table = store.table("log").expect("a table");
    let mut group = c.benchmark_group("store/append and flush");
    let mut index = 0u64;
    for entries in [1u64, 16, 128] {
        group.throughput(Throughput::Elements(entries));
        group.bench_with_input(BenchmarkId::from_parameter(entries), &entries, |b, &entries| {
            b.iter(|| {
                let mut batch = Batch::default();
                for _ in 0..entries {
                    index += 1;
                    // No two alike, and not to be compressed away.
                    let at = index * VALUE;
                    let byte = |i: u64| ((at + i).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8;
                    batch.insert(index.to_be_bytes(), (0..VALUE).map(byte).collect::<Vec<u8>>());
                }
                table.apply(batch).expect("an append");
                store.flush().expect("a flush");
            });
        });
    }
    group.finish();
    c.bench_function("store/get", |b| {
        let mut at = 0;
        b.iter(|| {
            at = at % index + 1;
            black_box(table.get(at.to_be_bytes()).expect("a value"))
        });
    });
}

criterion_group!(benches, appends);
criterion_main!(benches);
