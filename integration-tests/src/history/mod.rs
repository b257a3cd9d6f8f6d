//! What clients did to images, when, and what came of it; and whether that could have happened to a single copy.
//!
//! [`model`] says what one operation does to one image; [`check`] looks for an order of the operations of an image that
//! fits the answers and the times.

pub mod check;
pub mod model;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Result, bail};

use check::Verdict;
use model::{Answer, Call};

/// Most configurations that are looked at for one image: minutes, and more than any honest history needs.
const MOST_CONFIGURATIONS: usize = 2_000_000;

/// What came of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was answered.
    Done {
        /// When, in microseconds since the history's beginning.
        end: u64,
        /// With what.
        answer: Answer,
    },
    /// It was refused with the promise that it had no effect.
    Failed,
    /// It may have taken effect, may do so at any later time, or never.
    Unknown,
}

/// One operation on one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Who did it.
    pub client: usize,
    /// What was asked.
    pub call: Call,
    /// When, in microseconds since the history's beginning.
    pub start: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// Operations by image, recorded by many clients at once.
#[derive(Debug)]
pub struct History {
    begin: Instant,
    by_image: Mutex<BTreeMap<String, Vec<Operation>>>,
}

/// How many operations ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Images.
    pub images: usize,
    /// Answered.
    pub done: usize,
    /// Refused.
    pub failed: usize,
    /// Who knows.
    pub unknown: usize,
}

impl Default for History {
    fn default() -> Self {
        Self { begin: Instant::now(), by_image: Mutex::default() }
    }
}

impl History {
    /// Microseconds since the beginning.
    pub fn now(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Adds what was done to `image`.
    pub fn add(&self, image: &str, operation: Operation) {
        let mut by_image = self.by_image.lock().unwrap_or_else(PoisonError::into_inner);
        by_image.entry(image.to_owned()).or_default().push(operation);
    }

    /// Ids of all images that anything was done to.
    pub fn images(&self) -> Vec<String> {
        self.by_image.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// Operations of `image`, in the order in which they began.
    pub fn of(&self, image: &str) -> Vec<Operation> {
        let by_image = self.by_image.lock().unwrap_or_else(PoisonError::into_inner);
        let mut operations = by_image.get(image).cloned().unwrap_or_default();
        operations.sort_by_key(|o| o.start);
        operations
    }

    /// Numbers of operations.
    pub fn tally(&self) -> Tally {
        let by_image = self.by_image.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tally = Tally { images: by_image.len(), ..Tally::default() };
        for operation in by_image.values().flatten() {
            match operation.outcome {
                Outcome::Done { .. } => tally.done += 1,
                Outcome::Failed => tally.failed += 1,
                Outcome::Unknown => tally.unknown += 1,
            }
        }
        tally
    }

    /// Checks every image by itself: that suffices, as linearizability of each object is that of all.
    ///
    /// # Errors
    /// With the operations of the first image that cannot be explained, or whose check takes too long.
    pub fn check(&self) -> Result<()> {
        for image in self.images() {
            let operations = self.of(&image);
            let why = match check::check(&operations, MOST_CONFIGURATIONS) {
                Verdict::Linearizable => continue,
                Verdict::Violation { explained } => {
                    format!("no order explains more than {explained} of its operations")
                }
                Verdict::TooHard => format!("undecided after {MOST_CONFIGURATIONS} configurations"),
            };
            let told: String = operations.iter().map(|o| format!("\n  {o}")).collect();
            bail!("image {image:?}: {why}:{told}");
        }
        Ok(())
    }
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let millis = |micros: u64| micros as f64 / 1000.0;
        write!(f, "{:>10.1} ms  client {:<3} {:<22}", millis(self.start), self.client, format!("{:?}", self.call))?;
        match self.outcome {
            Outcome::Done { end, answer } => write!(f, " -> {answer:?} at {:.1} ms", millis(end)),
            other => write!(f, " -> {other:?}"),
        }
    }
}
