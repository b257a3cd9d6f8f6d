//! Clients that put, overwrite, delete, get and search, and write down what they see.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_proto::v1::{Consistency, Query, SearchRequest, SearchResponse, SessionToken};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{client, values};
use crate::client::{Client, by_vector};
use crate::history::History;
use crate::vectors::generator;

/// What clients do.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Its vector space has [`values::DIMENSION`] dimensions.
    pub collection: String,
    /// Of operations and embeddings.
    pub seed: u64,
    /// Clients at once, beside the one that searches at level ANY.
    pub clients: usize,
}

/// What clients counted beside the history's operations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that were sent again, with their request id, after they had been acknowledged.
    pub repeats: u64,
    /// Reads at level SESSION that were answered.
    pub sessions: u64,
    /// Searches at level ANY that were answered.
    pub any: u64,
    /// Those that failed.
    pub any_failed: u64,
}

/// What all clients write into.
#[derive(Debug)]
pub struct Seen {
    /// Operations at level LINEARIZABLE.
    pub history: History,
    /// Of embeddings.
    pub seed: u64,
    pub(super) collection: String,
    pub(super) stop: AtomicBool,
    pub(super) acknowledged: AtomicU64,
    pub(super) repeats: AtomicU64,
    pub(super) sessions: AtomicU64,
    any: AtomicU64,
    any_failed: AtomicU64,
    violations: Mutex<Vec<String>>,
    /// The value that was put last, by image: what to look for when it should be gone.
    last_put: Mutex<BTreeMap<String, u64>>,
}

impl Seen {
    fn new(options: &LoadOptions) -> Self {
        Self {
            history: History::default(),
            seed: options.seed,
            collection: options.collection.clone(),
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            repeats: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
            any: AtomicU64::new(0),
            any_failed: AtomicU64::new(0),
            violations: Mutex::default(),
            last_put: Mutex::default(),
        }
    }

    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    pub(super) fn violated(&self, what: String) {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub(super) fn put(&self, id: &str, value: u64) {
        self.last_put.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), value);
    }

    /// What broke a promise that the history does not cover.
    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// By image, the value that was put last.
    pub fn last_put(&self) -> BTreeMap<String, u64> {
        self.last_put.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Numbers.
    pub fn counts(&self) -> Counts {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        Counts {
            repeats: read(&self.repeats),
            sessions: read(&self.sessions),
            any: read(&self.any),
            any_failed: read(&self.any_failed),
        }
    }
}

/// Clients at work.
#[derive(Debug)]
pub struct Load {
    seen: Arc<Seen>,
    clients: JoinSet<()>,
}

impl Load {
    /// Begins; each client changes between the given coordinators.
    pub fn begin(coordinators: &[Client], options: &LoadOptions) -> Self {
        let seen = Arc::new(Seen::new(options));
        let mut clients = JoinSet::new();
        for number in 0..options.clients {
            clients.spawn(client::work(number, coordinators.to_vec(), seen.clone()));
        }
        clients.spawn(look_on(coordinators.to_vec(), seen.clone()));
        Self { seen, clients }
    }

    /// Waits until `more` writes have been acknowledged after now.
    ///
    /// # Errors
    /// If that takes longer than `patience`.
    pub async fn wait_for(&self, more: u64, patience: Duration) -> Result<()> {
        let count = || self.seen.acknowledged.load(Ordering::Relaxed);
        let (target, begin) = (count() + more, Instant::now());
        while count() < target {
            let missing = target - count();
            ensure!(begin.elapsed() < patience, "{missing} of {more} writes not acknowledged within {patience:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Lets every client finish what it is at, and returns what they saw.
    ///
    /// # Errors
    /// If one panicked.
    pub async fn finish(mut self) -> Result<Arc<Seen>> {
        self.seen.stop.store(true, Ordering::Relaxed);
        while let Some(client) = self.clients.join_next().await {
            client.context("a client panicked")?;
        }
        Ok(self.seen)
    }
}

/// A search by the embedding of `value`.
pub(super) fn search(seen: &Seen, value: u64, consistency: Consistency, tokens: Vec<SessionToken>) -> SearchRequest {
    let target = Some(by_vector(&values::vector(seen.seed, value)));
    SearchRequest {
        collection: seen.collection.clone(),
        query: Some(Query { target, k: 3, min_score: None, filter: None }),
        consistency: consistency.into(),
        session_tokens: tokens,
        include_attributes: true,
        ..Default::default()
    }
}

/// Hits as (id, value); a hit whose score is not that of its value breaks a promise.
pub(super) fn hits(seen: &Seen, sought: u64, answer: &SearchResponse) -> Vec<(String, u64)> {
    let query = values::vector(seen.seed, sought);
    let mut found = Vec::new();
    for hit in &answer.hits {
        let Some(value) = values::of_attributes(&hit.attributes) else { continue };
        let expected = values::dot(&query, &values::vector(seen.seed, value));
        if (expected - hit.score).abs() > 1e-3 {
            seen.violated(format!("{hit:?} should have score {expected}"));
        }
        found.push((hit.id.clone(), value));
    }
    found
}

/// Searches at level ANY all the time. It may see any past, but nothing that was never put.
async fn look_on(coordinators: Vec<Client>, seen: Arc<Seen>) {
    let mut rng = generator(seen.seed, u64::MAX);
    let mut value = 0;
    while !seen.stopped() {
        let client = &coordinators[rand::Rng::random_range(&mut rng, 0..coordinators.len())];
        let request = super::tries::request(search(&seen, value, Consistency::Any, Vec::new()));
        match client.searches().search(request).await {
            Ok(answer) => {
                let found = hits(&seen, value, answer.get_ref());
                value = found.last().map_or(0, |(_, value)| *value);
                seen.any.fetch_add(1, Ordering::Relaxed);
            }
            Err(status) => {
                seen.any_failed.fetch_add(1, Ordering::Relaxed);
                eprintln!("a search at level ANY failed: {status}");
            }
        }
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
}
