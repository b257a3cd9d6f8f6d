//! The graph and the tail: inserts and searches, for each precision.

// Benches fail by panicking, as tests do.
#![allow(clippy::expect_used)]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use omma_shard::index::{Hnsw, IndexConfig, LiveIndex, Storage, VectorIndex, dot};

mod vectors;
use vectors::clustered;

const DIMENSION: usize = 512;
const GRAPH: usize = 5_000;
const K: usize = 10;

fn keyed(vectors: &[Vec<f32>]) -> Vec<(u64, &[f32])> {
    vectors.iter().enumerate().map(|(i, v)| (4096 * (i as u64 + 2), v.as_slice())).collect()
}

fn graph(c: &mut Criterion) {
    let all = clustered(1, GRAPH + 200, DIMENSION);
    let (base, queries) = all.split_at(GRAPH);
    for storage in [Storage::F32, Storage::F16, Storage::I8] {
        // One thread, so that times are CPU times.
        let config = IndexConfig { storage, threads: 1, ..IndexConfig::new(DIMENSION) };
        let mut group = c.benchmark_group(format!("graph/{storage:?}"));
        group.sample_size(10).throughput(Throughput::Elements(500));
        group.bench_function("insert 500 into an empty one", |b| {
            let new = || Hnsw::new(config.clone()).expect("a graph");
            b.iter_batched(new, |graph| graph.add(&keyed(&base[..500])).expect("an insert"), BatchSize::PerIteration);
        });
        let graph = Hnsw::new(config.clone()).expect("a graph");
        graph.add(&keyed(base)).expect("an insert");
        let mut at = 0;
        group.sample_size(50).throughput(Throughput::Elements(1));
        group.bench_function(BenchmarkId::new("search", GRAPH), |b| {
            b.iter(|| {
                at = (at + 1) % queries.len();
                black_box(graph.search(&queries[at], K, None).expect("hits"))
            });
        });
        group.finish();
    }
}

fn tail(c: &mut Criterion) {
    let all = clustered(2, 2_001, DIMENSION);
    let index = LiveIndex::new(IndexConfig::new(DIMENSION)).expect("an index");
    keyed(&all[1..]).into_iter().for_each(|(key, v)| index.insert(key, v));
    c.bench_function("tail/search 2000", |b| b.iter(|| black_box(index.search(&all[0], K).expect("hits"))));
    c.bench_function("dot/512", |b| b.iter(|| black_box(dot(black_box(&all[0]), black_box(&all[1])))));
}

criterion_group!(benches, graph, tail);
criterion_main!(benches);
