//! Is there an order? The algorithm of Wing and Gong with Lowe's memory of configurations, for one image.
//!
//! A configuration is a set of operations that have been put in order and the state that they lead to. The search
//! goes on with any operation that began before every other remaining one had been answered, if the state gives its
//! answer. Operations of unknown outcome have no end and any answer, and need not be in the order at all.

use std::collections::HashSet;

use super::model::{State, step};
use super::{Operation, Outcome};

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order.
    Linearizable,
    /// There is none; at most so many operations could be put in order.
    Violation {
        /// Of those that were answered.
        explained: usize,
    },
    /// More configurations than allowed.
    TooHard,
}

type Set = Box<[u64]>;

fn contains(set: &Set, i: usize) -> bool {
    set[i / 64] >> (i % 64) & 1 == 1
}

fn with(set: &Set, i: usize) -> Set {
    let mut set = set.clone();
    set[i / 64] |= 1 << (i % 64);
    set
}

/// When the operation was over at the latest.
fn end(operation: &Operation) -> u64 {
    match operation.outcome {
        Outcome::Done { end, .. } => end,
        Outcome::Failed | Outcome::Unknown => u64::MAX,
    }
}

/// Those that matter: what failed has no effect, and a read without an answer says nothing.
fn relevant(operations: &[Operation]) -> Vec<Operation> {
    let matters = |o: &&Operation| match o.outcome {
        Outcome::Done { .. } => true,
        Outcome::Failed => false,
        Outcome::Unknown => !o.call.is_read(),
    };
    let mut kept: Vec<Operation> = operations.iter().filter(matters).copied().collect();
    kept.sort_by_key(|o| o.start);
    kept
}

/// Checks the operations of one image, which is not there at first. Looks at no more than `most` configurations.
pub fn check(operations: &[Operation], most: usize) -> Verdict {
    let operations = relevant(operations);
    let answered = operations.iter().filter(|o| end(o) != u64::MAX).count();
    let empty: Set = vec![0; operations.len().div_ceil(64)].into();
    let mut seen: HashSet<(Set, State)> = HashSet::new();
    let mut open = vec![(empty, None, 0)];
    let mut explained = 0;
    while let Some((set, state, done)) = open.pop() {
        if done == answered {
            return Verdict::Linearizable;
        }
        if seen.len() >= most {
            return Verdict::TooHard;
        }
        explained = explained.max(done);
        // Latest first onto the stack, so that the earliest is tried first.
        for i in candidates(&operations, &set).into_iter().rev() {
            let operation = &operations[i];
            let (next, given) = step(state, operation.call);
            let (fits, more) = match operation.outcome {
                Outcome::Done { answer, .. } => (answer == given, 1),
                Outcome::Failed | Outcome::Unknown => (true, 0),
            };
            let set = with(&set, i);
            if fits && seen.insert((set.clone(), next)) {
                open.push((set, next, done + more));
            }
        }
    }
    Verdict::Violation { explained }
}

/// Those that may come next: not in the order yet, and begun before any other of those was over.
fn candidates(operations: &[Operation], set: &Set) -> Vec<usize> {
    let mut first_end = u64::MAX;
    let mut found = Vec::new();
    for (i, operation) in operations.iter().enumerate() {
        if operation.start > first_end {
            break;
        }
        if !contains(set, i) {
            first_end = first_end.min(end(operation));
            found.push(i);
        }
    }
    found.retain(|&i| operations[i].start <= first_end);
    found
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
