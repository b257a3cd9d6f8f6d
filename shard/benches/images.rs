//! The image state machine: applying puts, and searching what was applied.

// Benches fail by panicking, as tests do.
#![allow(clippy::expect_used)]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{PutRecord, PutRecords};
use omma_shard::group::state_machine::{Committed, StateMachine};
use omma_shard::images::{ImageState, ImagesConfig, command};
use omma_shard::store::Store;

mod vectors;
use vectors::clustered;

const UID: u64 = 7;
const DIMENSION: usize = 512;
const IMAGES: usize = 3_000;
const CACHE: usize = 256 << 20;
const NEVER: Duration = Duration::from_secs(3600);

fn open(folder: &std::path::Path) -> ImageState {
    let store = Store::open(folder, CACHE, NEVER).expect("a store");
    ImageState::open(store, 1, &ImagesConfig::default()).expect("a state")
}

/// A command that puts `vectors` under new ids.
fn put(first: u64, vectors: &[Vec<f32>]) -> Bytes {
    let record = |(i, v): (usize, &Vec<f32>)| PutRecord {
        id: format!("i{}", first + i as u64),
        embedding: omma_common::vector::to_bytes(v),
        ..PutRecord::default()
    };
    let records = vectors.iter().enumerate().map(record).collect();
    let put = PutRecords { dimension: DIMENSION as u32, records, ..PutRecords::default() };
    command::encode(&format!("request-{first}"), UID, Command::Put(put))
}

fn apply(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let (state, vectors) = (open(folder.path()), clustered(3, 64, DIMENSION));
    let (mut index, mut next) = (0u64, 0u64);
    let mut group = c.benchmark_group("apply");
    for (entries, images) in [(1, 1), (64, 1), (1, 64)] {
        group.sample_size(20).throughput(Throughput::Elements(entries * images));
        group.bench_function(BenchmarkId::new(format!("{entries} entries of"), images), |b| {
            let chunk = || {
                let entry = |_| {
                    (index, next) = (index + 1, next + images);
                    Committed { index, command: Some(put(next, &vectors[..images as usize])) }
                };
                (0..entries).map(entry).collect::<Vec<_>>()
            };
            b.iter_batched(chunk, |chunk| state.apply(chunk, Bytes::new()).expect("applied"), BatchSize::PerIteration);
        });
    }
    group.finish();
}

fn search(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let (state, vectors) = (open(folder.path()), clustered(4, IMAGES + 200, DIMENSION));
    for (i, chunk) in vectors[..IMAGES].chunks(100).enumerate() {
        let entry = Committed { index: i as u64 + 1, command: Some(put(i as u64 * 100, chunk)) };
        state.apply(vec![entry], Bytes::new()).expect("applied");
    }
    while state.stats().tail > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut at = 0;
    c.bench_function(&format!("search/{IMAGES} images, ranked by stored embeddings"), |b| {
        b.iter(|| {
            at = (at + 1) % 200;
            black_box(state.search(UID, &vectors[IMAGES + at], 10, false).expect("hits"))
        });
    });
}

criterion_group!(benches, apply, search);
criterion_main!(benches);
