//! A write load that runs while something fails, and remembers what was acknowledged.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::client::{Client, vector_image};
use crate::vectors::{generator, unit_vector};

/// Until one write is acknowledged, whatever happens meanwhile: longer than any fault of a test.
const PATIENCE: Duration = Duration::from_secs(60);

/// An acknowledged write.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// Image id.
    pub id: String,
    /// What was put.
    pub vector: Vec<f32>,
    /// When the acknowledgement came.
    pub at: Instant,
}

/// Writers that put random embeddings, one image per call, each tried with one request id until it is acknowledged.
#[derive(Debug)]
pub struct Ingest {
    shared: Arc<Shared>,
    writers: JoinSet<Result<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    count: AtomicU64,
    acknowledged: Mutex<Vec<Acknowledged>>,
}

impl Shared {
    fn take(&self) -> Vec<Acknowledged> {
        std::mem::take(&mut self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What to write.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// Its vector space has dimension `dimension`.
    pub collection: String,
    /// Numbers per embedding.
    pub dimension: usize,
    /// Writers at once.
    pub writers: usize,
    /// Of the embeddings.
    pub seed: u64,
}

impl Ingest {
    /// Begins to write.
    pub fn begin(client: &Client, options: &IngestOptions) -> Self {
        Self::begin_named(client, options, "")
    }

    /// Begins to write images whose ids begin with `prefix`.
    pub fn begin_named(client: &Client, options: &IngestOptions, prefix: &str) -> Self {
        let shared = Arc::new(Shared::default());
        let mut writers = JoinSet::new();
        for writer in 0..options.writers {
            let ids = format!("{prefix}w{writer}");
            writers.spawn(write(client.clone(), options.clone(), writer as u64, ids, shared.clone()));
        }
        Self { shared, writers }
    }

    /// Acknowledged so far.
    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Relaxed)
    }

    /// Waits until `more` have been acknowledged after now.
    ///
    /// # Errors
    /// If that takes longer than `patience`.
    pub async fn wait_for(&self, more: u64, patience: Duration) -> Result<()> {
        let (target, begin) = (self.count() + more, Instant::now());
        while self.count() < target {
            let missing = target - self.count();
            ensure!(begin.elapsed() < patience, "{missing} of {more} writes not acknowledged within {patience:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// Lets every writer finish the write it is at, and returns all that was acknowledged: exactly what was ever
    /// begun, since no writer gives up.
    ///
    /// # Errors
    /// If a write was refused, or not acknowledged within a minute.
    pub async fn finish(mut self) -> Result<Vec<Acknowledged>> {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(writer) = self.writers.join_next().await {
            writer.context("a writer panicked")??;
        }
        Ok(self.shared.take())
    }

    /// Lets every writer drop what it is at, and returns the ids of what was acknowledged. More may have been stored.
    pub async fn abandon(mut self) -> Vec<String> {
        self.writers.shutdown().await;
        self.shared.take().into_iter().map(|a| a.id).collect()
    }
}

async fn write(client: Client, options: IngestOptions, writer: u64, ids: String, shared: Arc<Shared>) -> Result<()> {
    let mut rng = generator(options.seed, writer);
    for number in 0.. {
        if shared.stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("{ids}-{number}");
        let vector = unit_vector(&mut rng, options.dimension);
        client.store(&options.collection, vec![vector_image(&id, vector.clone())], PATIENCE).await?;
        shared.count.fetch_add(1, Ordering::Relaxed);
        let acknowledged = Acknowledged { id, vector, at: Instant::now() };
        shared.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).push(acknowledged);
    }
    Ok(())
}

/// The longest time between two acknowledgements, of any writers: how long writing stood still.
pub fn longest_gap(acknowledged: &[Acknowledged]) -> Duration {
    let mut times: Vec<Instant> = acknowledged.iter().map(|a| a.at).collect();
    times.sort_unstable();
    times.windows(2).map(|w| w[1] - w[0]).max().unwrap_or_default()
}
