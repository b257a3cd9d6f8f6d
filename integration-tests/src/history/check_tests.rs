//! The checker accepts what can happen and rejects what cannot, however small the difference.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::history::model::{Answer, Call, Effect};

const MOST: usize = 100_000;

fn done(start: u64, end: u64, call: Call, answer: Answer) -> Operation {
    Operation { client: 0, call, start, outcome: Outcome::Done { end, answer } }
}

fn put(start: u64, end: u64, value: u64, effect: Effect) -> Operation {
    done(start, end, Call::Put(value), Answer::Put(effect))
}

fn get(start: u64, end: u64, state: State) -> Operation {
    done(start, end, Call::Get, Answer::Got(state))
}

fn delete(start: u64, end: u64, existed: bool) -> Operation {
    done(start, end, Call::Delete, Answer::Deleted(existed))
}

fn find(start: u64, end: u64, value: u64, found: bool) -> Operation {
    done(start, end, Call::Find(value), Answer::Found(found))
}

fn unknown(start: u64, call: Call) -> Operation {
    Operation { client: 0, call, start, outcome: Outcome::Unknown }
}

fn failed(start: u64, call: Call) -> Operation {
    Operation { client: 0, call, start, outcome: Outcome::Failed }
}

fn accepted(operations: &[Operation]) -> bool {
    match check(operations, MOST) {
        Verdict::Linearizable => true,
        Verdict::Violation { .. } => false,
        Verdict::TooHard => panic!("too hard: {operations:?}"),
    }
}

use Effect::{Created, Replaced, Unchanged};

#[test]
fn an_empty_history_and_an_absent_image_are_fine() {
    assert!(accepted(&[]));
    assert!(accepted(&[get(0, 1, None), find(2, 3, 7, false), delete(4, 5, false)]));
}

#[test]
fn a_lost_write_is_rejected() {
    assert!(!accepted(&[put(0, 1, 7, Created), get(2, 3, None)]));
    assert!(!accepted(&[put(0, 1, 7, Created), find(2, 3, 7, false)]));
    assert!(accepted(&[put(0, 1, 7, Created), get(2, 3, Some(7)), find(4, 5, 7, true)]));
}

#[test]
fn a_stale_read_is_rejected_but_a_concurrent_one_is_not() {
    let history = |read| [put(0, 1, 7, Created), put(2, 5, 8, Replaced), get(read, read + 1, Some(7))];
    assert!(accepted(&history(3)));
    assert!(accepted(&history(5)), "times that touch overlap");
    assert!(!accepted(&history(6)));
}

#[test]
fn reads_never_go_back() {
    let during = [put(0, 1, 7, Created), put(2, 9, 8, Replaced), get(3, 4, Some(8)), get(5, 6, Some(7))];
    assert!(!accepted(&during));
}

#[test]
fn a_deleted_image_never_returns() {
    assert!(accepted(&[put(0, 1, 7, Created), delete(2, 3, true), find(4, 5, 7, false)]));
    assert!(!accepted(&[put(0, 1, 7, Created), delete(2, 3, true), find(4, 5, 7, true)]));
    assert!(!accepted(&[put(0, 1, 7, Created), delete(2, 3, true), get(4, 5, Some(7))]));
}

#[test]
fn a_second_effect_of_one_put_is_rejected() {
    let once = [put(0, 1, 7, Created), put(2, 3, 8, Replaced)];
    assert!(!accepted(&[once[0], once[1], get(4, 5, Some(7))]), "a retry applied again");
    assert!(!accepted(&[put(0, 1, 7, Created), delete(2, 3, true), put(4, 5, 8, Replaced)]), "it came back between");
    assert!(!accepted(&[put(0, 1, 7, Created), delete(2, 3, true), delete(4, 5, true)]));
}

#[test]
fn effects_must_fit() {
    assert!(!accepted(&[put(0, 1, 7, Replaced)]));
    assert!(!accepted(&[put(0, 1, 7, Created), put(2, 3, 8, Created)]));
    assert!(accepted(&[put(0, 1, 7, Created), put(2, 3, 7, Unchanged)]));
    assert!(!accepted(&[put(0, 1, 7, Created), put(2, 3, 7, Replaced)]));
}

#[test]
fn unknown_operations_may_happen_once_at_any_later_time_or_never() {
    let base = [put(0, 1, 7, Created), unknown(2, Call::Put(8))];
    let then = |reads: &[Operation]| accepted(&[&base[..], reads].concat());
    assert!(then(&[get(3, 4, Some(7))]));
    assert!(then(&[get(3, 4, Some(8))]));
    assert!(then(&[get(3, 4, Some(7)), get(100, 101, Some(8))]));
    assert!(!then(&[get(3, 4, Some(8)), get(5, 6, Some(7))]));
    assert!(!then(&[put(3, 4, 9, Replaced), get(5, 6, Some(8)), get(7, 8, Some(9))]));
    assert!(!accepted(&[get(0, 1, Some(8)), unknown(2, Call::Put(8))]), "before it began");
}

#[test]
fn failed_operations_have_no_effect() {
    let base = [put(0, 1, 7, Created), failed(2, Call::Put(8)), failed(3, Call::Delete)];
    assert!(accepted(&[&base[..], &[get(4, 5, Some(7))]].concat()));
    assert!(!accepted(&[&base[..], &[get(4, 5, Some(8))]].concat()));
    assert!(!accepted(&[&base[..], &[get(4, 5, None)]].concat()));
}

#[test]
fn too_many_configurations_are_given_up() {
    let mut operations: Vec<_> = (0..20).map(|v| unknown(0, Call::Put(v))).collect();
    operations.push(get(1, 2, Some(99)));
    assert_eq!(check(&operations, 1000), Verdict::TooHard);
}

/// A history that a single copy made: each operation takes effect at a moment between its start and its end.
fn honest(rng: &mut StdRng) -> Vec<Operation> {
    let n = rng.random_range(1..40);
    let mut moments: Vec<u64> = (0..n).map(|_| rng.random_range(0..2000)).collect();
    moments.sort_unstable();
    let (mut state, mut history) = (None, Vec::new());
    for (i, at) in moments.into_iter().enumerate() {
        let (start, end) = (at.saturating_sub(rng.random_range(0..200)), at + rng.random_range(0..200));
        let call = match rng.random_range(0..5) {
            0 | 1 => Call::Put(i as u64),
            2 => Call::Delete,
            3 => Call::Get,
            _ => Call::Find(rng.random_range(0..=i as u64)),
        };
        let lost = rng.random_bool(0.1);
        let happens = !lost || rng.random_bool(0.5);
        let (next, answer) = step(state, call);
        if happens {
            state = next;
        }
        let outcome = if lost { Outcome::Unknown } else { Outcome::Done { end, answer } };
        history.push(Operation { client: i, call, start, outcome });
    }
    history
}

#[test]
fn honest_histories_are_accepted_and_what_happened_never_is_not() {
    for seed in 0..2000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut history = honest(&mut rng);
        assert!(accepted(&history), "seed {seed}: {history:?}");
        // A value that nobody put.
        let at = rng.random_range(0..2000);
        history.push(get(at, at + 1, Some(12_345)));
        assert!(!accepted(&history), "seed {seed}");
    }
}

/// All orders, without any cleverness.
fn by_brute_force(operations: &[Operation], left: &mut Vec<usize>, state: State) -> bool {
    if left.iter().all(|&i| operations[i].outcome == Outcome::Unknown) {
        return true;
    }
    for place in 0..left.len() {
        let i = left[place];
        if left.iter().any(|&other| end(&operations[other]) < operations[i].start) {
            continue;
        }
        let (next, given) = step(state, operations[i].call);
        let fits = match operations[i].outcome {
            Outcome::Done { answer, .. } => answer == given,
            _ => true,
        };
        left.remove(place);
        let found = fits && by_brute_force(operations, left, next);
        left.insert(place, i);
        if found {
            return true;
        }
    }
    false
}

#[test]
fn agrees_with_brute_force_on_random_histories() {
    let (mut yes, mut no) = (0, 0);
    for seed in 0..3000 {
        let mut rng = StdRng::seed_from_u64(seed);
        let n = rng.random_range(1..7);
        let random = |_| {
            let start = rng.random_range(0..20);
            let call = [Call::Put(1), Call::Put(2), Call::Delete, Call::Get, Call::Find(1)][rng.random_range(0..5)];
            let assumed = [None, Some(1), Some(2)][rng.random_range(0..3)];
            let (_, answer) = step(assumed, call);
            let end = start + rng.random_range(0..15);
            let outcome = if rng.random_bool(0.2) { Outcome::Unknown } else { Outcome::Done { end, answer } };
            Operation { client: 0, call, start, outcome }
        };
        let history: Vec<_> = (0..n).map(random).collect();
        let expected = by_brute_force(&history, &mut (0..history.len()).collect(), None);
        assert_eq!(accepted(&history), expected, "seed {seed}: {history:?}");
        *if expected { &mut yes } else { &mut no } += 1;
    }
    assert!(yes > 300 && no > 300, "{yes} and {no}");
}
