//! What a live index promises, one promise at a time; all at once: `stress.rs`.

use super::*;
use rand::SeedableRng;
use rand::rngs::SmallRng;

const DIMENSION: usize = 16;

fn filled(count: usize) -> (LiveIndex, Vec<Vec<f32>>) {
    let vectors = crate::index::suite::clustered(&mut SmallRng::seed_from_u64(21), count, DIMENSION, 10);
    let index = LiveIndex::new(IndexConfig::new(DIMENSION)).unwrap();
    vectors.iter().enumerate().for_each(|(i, v)| index.insert(key(i), v));
    (index, vectors)
}

fn key(i: usize) -> u64 {
    4096 * (i as u64 + 2)
}

fn first(index: &LiveIndex, query: &[f32]) -> Option<u64> {
    index.search(query, 1).unwrap().first().map(|hit| hit.key)
}

#[test]
fn found_before_between_and_after_draining() {
    let (index, vectors) = filled(500);
    let all_found = || (0..500).all(|i| first(&index, &vectors[i]) == Some(key(i)));
    assert!(all_found());
    assert_eq!(index.search(&vectors[0], 1).unwrap()[0].error, 0.0);
    assert_eq!(index.drain(200).unwrap(), 200);
    assert_eq!((index.stats().graph, index.stats().tail, index.stats().watermark), (200, 300, key(199)));
    assert!(all_found());
    assert!(index.search(&vectors[0], 1).unwrap()[0].error > 0.0);
    assert_eq!((index.drain(1000).unwrap(), index.drain(1000).unwrap()), (300, 0));
    assert!(all_found());
}

#[test]
fn more_candidates_than_asked_for_and_all_different() {
    let (index, vectors) = filled(300);
    index.drain(150).unwrap();
    let hits = index.search(&vectors[0], 10).unwrap();
    let different = hits.iter().map(|hit| hit.key).collect::<HashSet<_>>().len();
    assert!(
        different == hits.len() && different >= 36,
        "{different} of {}: of graph, tail and what the graph lost",
        hits.len()
    );
    assert!(index.search(&vectors[0], 0).unwrap().is_empty());
}

#[test]
fn what_is_removed_is_gone_wherever_it_was() {
    let (index, vectors) = filled(200);
    index.drain(100).unwrap();
    for i in [5, 150] {
        index.remove(key(i));
        assert_ne!(first(&index, &vectors[i]), Some(key(i)));
    }
    assert_eq!((index.stats().tail, index.stats().tombstones), (99, 1));
    index.remove(key(150));
    index.remove(1 << 50);
    assert_eq!(index.stats().tombstones, 1, "what never came to the graph needs no tombstone");
    index.drain(1000).unwrap();
    assert_ne!(first(&index, &vectors[150]), Some(key(150)));
    assert_eq!(index.stats().graph, 199);
}

#[test]
fn a_rebuild_leaves_the_living_only() {
    let (index, vectors) = filled(400);
    index.drain(1000).unwrap();
    (0..99).for_each(|i| index.remove(key(i)));
    assert!(!index.needs_rebuild());
    index.remove(key(99));
    assert!(index.needs_rebuild());
    // Removed ones among the records do no harm.
    index.rebuild((50..400).map(|i| (key(i), vectors[i].clone()))).unwrap();
    assert_eq!((index.stats().graph, index.stats().tombstones), (300, 0));
    assert!(!index.needs_rebuild());
    assert!((100..400).all(|i| first(&index, &vectors[i]) == Some(key(i))));
    assert!((0..100).all(|i| index.search(&vectors[i], 50).unwrap().iter().all(|hit| hit.key >= key(100))));
}

#[test]
fn a_rebuild_that_misses_records_changes_nothing() {
    let (index, vectors) = filled(200);
    index.drain(1000).unwrap();
    index.remove(key(0));
    let some = (0..150).map(|i| (key(i), vectors[i].clone()));
    assert_eq!(index.rebuild(some), Err(IndexError::Incomplete { rebuilt: 149, live: 199 }));
    assert!((1..200).all(|i| first(&index, &vectors[i]) == Some(key(i))));
    let bad = (0..200).map(|i| (key(i), vec![f32::NAN; DIMENSION]));
    assert_eq!(index.rebuild(bad), Err(IndexError::NotFinite));
    index.rebuild((0..200).map(|i| (key(i), vectors[i].clone()))).unwrap();
}

#[test]
fn a_checkpoint_brings_back_graph_tombstones_and_beside() {
    let (index, vectors) = filled(300);
    index.drain(250).unwrap();
    let lost = vec![0.25; DIMENSION];
    index.generations.read().current.beside.add(&[(4097, &lost)]);
    index.remove(key(7));
    let export = index.export().unwrap();
    assert_eq!((export.watermark, export.count), (key(249), 251));
    let config = IndexConfig::new(DIMENSION);
    let back = LiveIndex::restore(config.clone(), &export.bytes, export.watermark, [key(7), key(299)]).unwrap();
    // One more than what the graph did not find, which is chance.
    assert_eq!((back.stats().tombstones, back.stats().tail), (1, 0));
    assert_eq!(back.stats().beside, index.stats().beside);
    assert!(back.stats().beside >= 1);
    assert_eq!(back.stats().watermark, key(249));
    assert_ne!(first(&back, &vectors[7]), Some(key(7)));
    assert_eq!(first(&back, &lost), Some(4097));
    (250..300).for_each(|i| back.insert(key(i), &vectors[i]));
    assert!((8..300).all(|i| first(&back, &vectors[i]) == Some(key(i))));
    for cut in [0, 10, 25, 60, export.bytes.len() - 1] {
        let cut = LiveIndex::restore(config.clone(), &export.bytes[..cut], export.watermark, []);
        assert!(matches!(cut, Err(IndexError::Checkpoint(_))));
    }
}

#[test]
fn an_audit_finds_again_what_the_graph_lost() {
    let (index, vectors) = filled(100);
    index.drain(1000).unwrap();
    let before = index.stats().beside;
    let other = |i: usize| vectors[i].iter().map(|x| -x).collect::<Vec<_>>();
    // To the graph, these are images that it has somewhere else than where they are.
    let records = [(key(1), other(1)), (key(2), vectors[2].clone()), (1 << 50, other(2))];
    assert_eq!(index.audit(records.clone().into_iter()).unwrap(), 1);
    assert_eq!(first(&index, &other(1)), Some(key(1)));
    assert_eq!(index.audit(records.into_iter()).unwrap(), 0);
    assert_eq!(index.stats().beside, before + 1, "what the graph never had stays out");
}

#[test]
fn many_equal_images_hide_nothing_else() {
    let (index, vectors) = filled(1500);
    let copies = 700;
    (0..copies).for_each(|i| index.insert(key(1500 + i), &vectors[3]));
    (0..).find(|_| index.drain(300).unwrap() == 0);
    let hits = index.search(&vectors[3], 20).unwrap();
    assert!(hits.iter().take(20).all(|hit| hit.score > 0.999));
    let lost: Vec<_> = (4..1500).filter(|&i| first(&index, &vectors[i]) != Some(key(i))).collect();
    assert!(lost.is_empty(), "{lost:?}, {:?}", index.stats());
}

#[test]
fn no_embedding_is_left_out_without_failing() {
    let (index, _) = filled(10);
    index.insert(1 << 40, [f32::NAN; DIMENSION]);
    index.insert(1 << 40, [1.0; 3]);
    assert_eq!(index.stats().tail, 10);
    assert_eq!(index.search(&[1.0; 3], 1), Err(IndexError::Dimension { expected: DIMENSION, actual: 3 }));
}
