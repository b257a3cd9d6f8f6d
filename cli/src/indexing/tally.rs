//! What became of the files.

use std::sync::{Mutex, MutexGuard, PoisonError};

use omma_client::ClientError;
use omma_client::proto::PutEffect;

/// A file that is not in the collection now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) id: String,
    pub(crate) reason: String,
}

/// Counts of files and bytes.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Stored by this run.
    pub(crate) created: u64,
    /// Stored by this run in the place of something else.
    pub(crate) replaced: u64,
    /// Stored already.
    pub(crate) unchanged: u64,
    /// Bytes of pictures handed to the ingest.
    pub(crate) bytes_sent: u64,
    pub(crate) failures: Vec<Failure>,
}

impl Tally {
    /// Takes the outcome of one image in.
    pub(super) fn answered(&mut self, id: String, result: Result<PutEffect, ClientError>) {
        match result {
            Ok(PutEffect::Unchanged) => self.unchanged += 1,
            Ok(PutEffect::Replaced) => self.replaced += 1,
            Ok(PutEffect::Created | PutEffect::Unspecified) => self.created += 1,
            Err(error) => self.failures.push(Failure { id, reason: error.to_string() }),
        }
    }

    /// Stored by this run.
    pub(crate) fn stored(&self) -> u64 {
        self.created + self.replaced
    }
}

pub(super) fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    // Counts are never left half-changed.
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}
