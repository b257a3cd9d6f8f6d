//! Filtered searches of a whole state against brute force: random histories, restarts, checkpoints, snapshots, and
//! images that are replaced meanwhile. Seeds are printed; set `OMMA_SEED` to run one again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use omma_common::topk::rank;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{DeleteRecords, PutRecord, PutRecords};
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::filter::Condition;
use omma_proto::v1::{AttributeValue, EqualsCondition, Filter};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::ImageState;
use super::tests::{DIMENSION, UID, apply, open, seed, unit, until};
use crate::attributes::matches;
use crate::attributes::tests::{attributes, filter};
use crate::group::state_machine::StateMachine;
use crate::index::dot;

type Attributes = BTreeMap<String, AttributeValue>;

const K: usize = 5;

fn put(items: &[(String, Vec<f32>, Attributes)]) -> Command {
    let record = |(id, v, attributes): &(String, Vec<f32>, Attributes)| PutRecord {
        id: id.clone(),
        embedding: omma_common::vector::to_bytes(v),
        attributes: attributes.clone(),
        ..PutRecord::default()
    };
    let records = items.iter().map(record).collect();
    Command::Put(PutRecords { dimension: DIMENSION as u32, records, ..PutRecords::default() })
}

/// A random history, and what it should lead to.
struct History {
    rng: StdRng,
    index: u64,
    model: BTreeMap<String, (Vec<f32>, Attributes)>,
}

impl History {
    fn new() -> Self {
        Self { rng: StdRng::seed_from_u64(seed()), index: 0, model: BTreeMap::new() }
    }

    fn run(&mut self, state: &ImageState, steps: usize) {
        self.log(steps).into_iter().for_each(|(index, command)| drop(apply(state, index, command)));
    }

    fn log(&mut self, steps: usize) -> Vec<(u64, Command)> {
        (0..steps).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> (u64, Command) {
        self.index += 1;
        let ids: Vec<String> =
            (0..self.rng.random_range(1..8)).map(|_| format!("i{}", self.rng.random_range(0..300))).collect();
        if self.rng.random_bool(0.2) {
            ids.iter().for_each(|id| drop(self.model.remove(id)));
            return (self.index, Command::Delete(DeleteRecords { ids }));
        }
        let items: Vec<_> = ids.into_iter().map(|id| (id, unit(&mut self.rng), attributes(&mut self.rng))).collect();
        self.model.extend(items.iter().cloned().map(|(id, v, attributes)| (id, (v, attributes))));
        (self.index, put(&items))
    }

    /// Every answer is what asking each image would give.
    fn check(&mut self, state: &ImageState) {
        for i in 0..30 {
            let (query, filter) = (unit(&mut self.rng), filter(&mut self.rng, i % 3));
            let satisfying = self.model.iter().filter(|(_, (_, attributes))| matches(&filter, attributes));
            let mut want: Vec<(f32, &String)> = satisfying.map(|(id, (v, _))| (dot(&query, v), id)).collect();
            want.sort_by(|a, b| rank(a.0, a.1, b.0, b.1));
            want.truncate(K);
            let hits = state.search_where(UID, &query, K, Some(&filter), true).unwrap();
            let got: Vec<_> = hits.iter().map(|hit| (hit.score, &hit.id)).collect();
            assert_eq!(got, want, "{filter:?}");
            assert!(hits.iter().all(|hit| hit.attributes == self.model[&hit.id].1));
        }
    }
}

#[test]
fn equals_brute_force_also_after_restarts() {
    let (dir, mut history) = (tempfile::tempdir().unwrap(), History::new());
    for _ in 0..3 {
        let state = open(&dir);
        history.check(&state);
        history.run(&state, 150);
        history.check(&state);
        until("the tail is moved", || state.stats().tail == 0);
        history.check(&state);
        state.flush().unwrap();
    }
}

#[test]
fn a_snapshot_brings_what_filters_need() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (leader, follower, mut history) = (open(&from), open(&to), History::new());
    history.run(&leader, 300);
    let (raft, chunks) = leader.snapshot().unwrap();
    let later = history.log(150);
    later.iter().for_each(|(index, command)| drop(apply(&leader, *index, command.clone())));
    follower.install(raft, chunks).unwrap();
    later.into_iter().for_each(|(index, command)| drop(apply(&follower, index, command)));
    history.check(&follower);
    follower.flush().unwrap();
    drop(follower);
    history.check(&open(&to));
}

fn integer(n: i64) -> AttributeValue {
    AttributeValue { kind: Some(Kind::IntegerValue(n)) }
}

fn numbered(n: i64) -> Attributes {
    Attributes::from([("n".to_owned(), integer(n))])
}

fn n_is(n: i64) -> Filter {
    let condition = EqualsCondition { attribute: "n".into(), value: Some(integer(n)) };
    Filter { condition: Some(Condition::Equals(condition)) }
}

/// Restarts from a checkpoint, and from one whose attribute index is damaged or missing, as older versions wrote it.
#[test]
fn restarts_from_a_checkpoint_of_any_kind() {
    let (dir, mut rng) = (tempfile::tempdir().unwrap(), StdRng::seed_from_u64(seed()));
    let state = open(&dir);
    let items: Vec<_> = (0..4_000).map(|i| (format!("i{i}"), unit(&mut rng), numbered(i % 40))).collect();
    for (index, chunk) in (1..).zip(items.chunks(100)) {
        apply(&state, index, put(chunk));
    }
    until("a checkpoint is written", || state.stats().checkpoint > 0);
    until("the tail is moved", || state.stats().tail == 0);
    // After the checkpoint: one goes, one changes, one comes.
    apply(&state, 41, Command::Delete(DeleteRecords { ids: vec!["i3".into()] }));
    apply(
        &state,
        42,
        put(&[("i43".into(), items[43].1.clone(), numbered(4)), ("new".into(), items[0].1.clone(), numbered(3))]),
    );
    state.flush().unwrap();
    drop(state);

    let expect = |what: &str| {
        let state = open(&dir);
        let found = |n: i64| {
            let hits = state.search_where(UID, &items[0].1, 1000, Some(&n_is(n)), false).unwrap();
            let mut ids: Vec<_> = hits.into_iter().map(|hit| hit.id).collect();
            ids.sort();
            ids
        };
        let of = |n: usize| (n..4_000).step_by(40).map(|i| format!("i{i}"));
        let sorted =
            |ids: Vec<String>| BTreeMap::from_iter(ids.into_iter().map(|id| (id, ()))).into_keys().collect::<Vec<_>>();
        let threes = of(3).filter(|id| !["i3", "i43"].contains(&id.as_str())).chain(["new".to_owned()]);
        assert_eq!(found(3), sorted(threes.collect()), "{what}");
        assert_eq!(found(4), sorted(of(4).chain(["i43".to_owned()]).collect()), "{what}");
        assert_eq!(found(5), sorted(of(5).collect()), "{what}");
    };
    expect("from the checkpoint");
    let spoil = |key: &[u8]| super::checkpoint::spoil(&dir.path().join("checkpoints/1.0"), UID, key);
    spoil(b"f\0\0\0\0");
    expect("from one with a damaged attribute index");
    spoil(b"m");
    expect("from one with a damaged manifest");
}

/// An image that always satisfies the filter is found whatever else about it changes; one that stops satisfying it is
/// not.
#[test]
fn searches_never_miss_an_image_that_is_being_replaced() {
    let (dir, mut rng) = (tempfile::tempdir().unwrap(), StdRng::seed_from_u64(seed()));
    let state = open(&dir);
    let target = unit(&mut rng);
    let colours = |n: i64| Attributes::from([("n".to_owned(), integer(1)), ("other".to_owned(), integer(n))]);
    apply(&state, 1, put(&[("target".into(), target.clone(), colours(0))]));
    let stop = AtomicBool::new(false);
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let hits = state.search_where(UID, &target, 3, Some(&n_is(1)), true).unwrap();
                    assert_eq!(hits.len(), 1);
                    assert_eq!(hits[0].id, "target");
                    assert!(state.search_where(UID, &target, 3, Some(&n_is(2)), true).unwrap().is_empty());
                }
            });
        }
        for index in 2..1200 {
            apply(&state, index, put(&[("target".into(), target.clone(), colours(index as i64))]));
        }
        stop.store(true, Ordering::Relaxed);
    });
}
