//! Searches of a graph in eight bits, ranked by the exact embeddings: nearly what exact search finds, whatever the numbers
//! look like.

use omma_common::vector::{normalise, to_bytes};
use omma_proto::internal::v1::{PutRecord, PutRecords};
use omma_proto::v1::Quantization;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

const NUMBERS: usize = 256;

/// Around one of `centres`, then changed.
fn near(rng: &mut StdRng, centres: &[Vec<f32>], spread: f32, change: fn(f32, usize) -> f32) -> Vec<f32> {
    let centre = &centres[rng.random_range(0..centres.len())];
    let noisy = centre.iter().map(|x| x + spread * rng.random_range(-1.0..1.0f32));
    let mut v: Vec<f32> = noisy.enumerate().map(|(i, x)| change(x, i)).collect();
    normalise(&mut v, NUMBERS).unwrap();
    v
}

fn put_in_eight_bits(state: &ImageState, index: u64, items: &[(String, Vec<f32>)]) {
    let record =
        |(id, v): &(String, Vec<f32>)| PutRecord { id: id.clone(), embedding: to_bytes(v), ..PutRecord::default() };
    let quantization = Quantization::I8.into();
    let records = items.iter().map(record).collect();
    let dimension = NUMBERS as u32;
    apply(state, index, Command::Put(PutRecords { dimension, quantization, records }));
}

/// Recall@10 with most in the graph, and a tail beside it that is longer than what a search asks of a graph.
fn recall(spread: f32, change: fn(f32, usize) -> f32) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed());
    let centres: Vec<Vec<f32>> = (0..40).map(|_| (0..NUMBERS).map(|_| rng.random_range(-1.0..1.0)).collect()).collect();
    let items: Vec<_> = (0..3_300).map(|i| (format!("i{i}"), near(&mut rng, &centres, spread, change))).collect();
    let state = open(&dir);
    let (first, rest) = items.split_at(3_000);
    for (index, chunk) in (1..).zip(first.chunks(100)) {
        put_in_eight_bits(&state, index, chunk);
    }
    until("the graph has what came", || state.stats().tail == 0);
    put_in_eight_bits(&state, 31, rest);
    let (mut found, queries) = (0, 60);
    for _ in 0..queries {
        let query = near(&mut rng, &centres, spread, change);
        let mut exact: Vec<(f32, &String)> = items.iter().map(|(id, v)| (dot(&query, v), id)).collect();
        exact.sort_by(|a, b| b.0.total_cmp(&a.0));
        let hits = state.search(UID, &query, 10, false).unwrap();
        found += hits.iter().filter(|hit| exact[..10].iter().any(|(_, id)| **id == hit.id)).count();
    }
    found as f64 / (10 * queries) as f64
}

#[test]
fn of_embeddings_like_any() {
    let recall = recall(0.6, |x, _| x);
    assert!(recall >= 0.98, "{recall}");
}

/// It is cut off, so that all scores of the graph are too low by far more than their error.
#[test]
fn of_embeddings_with_a_number_that_is_most_of_their_length() {
    let recall = recall(0.6, |x, i| if i == 3 { 12.0 + x } else { x });
    assert!(recall >= 0.98, "{recall}");
}

#[test]
fn of_embeddings_with_few_large_numbers() {
    let recall = recall(0.6, |x, _| x.powi(3));
    assert!(recall >= 0.98, "{recall}");
}

/// All are rounded the same way.
#[test]
fn of_embeddings_with_two_different_numbers() {
    let recall = recall(0.6, |x, _| if x > 0.0 { 1.0 } else { 0.0 });
    assert!(recall >= 0.97, "{recall}");
}

/// Frames of a film: their scores lie within what rounding does.
#[test]
fn of_near_equals() {
    let recall = recall(0.05, |x, _| x);
    assert!(recall >= 0.95, "{recall}");
}
