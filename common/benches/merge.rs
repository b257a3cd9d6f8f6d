//! Merging the groups' hits into the best of all.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use omma_common::topk::TopK;

fn merge(c: &mut Criterion) {
    let hits =
        |group: u32, k: u32| (0..k).map(move |i| (format!("image-{group}-{i}"), 1.0 - (i * 7 + group) as f32 * 1e-3));
    for (groups, k) in [(3, 10), (3, 100), (64, 10)] {
        c.bench_function(&format!("merge/{groups} groups, {k} hits"), |b| {
            let all = || (0..groups).flat_map(|group| hits(group, k)).collect::<Vec<_>>();
            let best = |all: Vec<(String, f32)>| {
                let mut best = TopK::new(k as usize);
                all.into_iter().for_each(|hit| best.push(hit));
                black_box(best.into_sorted())
            };
            b.iter_batched(all, best, BatchSize::SmallInput);
        });
    }
}

criterion_group!(benches, merge);
criterion_main!(benches);
