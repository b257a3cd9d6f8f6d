//! From bytes to vectors through two pools of threads: decoding, then inference in micro-batches across requests.
//!
//! A picture that waits holds a slot (how many may be in the encoder at once) and, until it is decoded, a share of the
//! bytes that may wait. Both are taken without waiting: when there is none, the last of the longest line has to go, or
//! the caller is told at once. Decoding stays a little ahead of inference and no more, so that what waits can still be
//! refused.
//!
//! There is one decoding thread more than one client may keep busy, and while others are served that is one less: whoever sends a single picture finds it free,
//! whatever another client floods the encoder with. Where inference takes the cores that decoding takes, the bound is for
//! both together: else a flood would have twice as many threads as there are cores, and everybody's work would crawl.

mod picture;
mod work;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::deadline::Deadline;
use omma_common::telemetry::TracePoint;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use self::picture::{Ticket, Undecoded};
use self::work::{Shared, thread};
use super::budget::Budget;
use super::decode::PictureLimits;
use super::error::EncoderError;
use super::lines::{Line, Lines};
use super::pace::Pace;
use super::preprocess::Preprocessing;
use super::watch::Watch;
use crate::metrics::{PICTURES, PICTURES_OK, REFUSED};

/// Unit of the semaphore that counts bytes: its permits are 32 bits.
const BYTES_PER_PERMIT: usize = 1024;
/// In a line that has not been empty for a while, waiting is not a burst that passes but what everybody gets: there, an
/// urgent picture may wait for this part of what it else may.
const STANDING: u32 = 5;

/// What runs a batch. The real one is a session; tests have others.
pub(super) trait Infer: Send {
    /// `pictures` holds `batch` pictures one after the other; returns one vector for each.
    fn run(&mut self, pictures: &[f32], batch: usize) -> Result<Vec<Vec<f32>>, String>;
}

/// What becomes of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Encoded {
    /// Unit length, in the model's dimension.
    pub embedding: Vec<f32>,
    /// Time of decoding and preprocessing.
    pub decode: Duration,
    /// Time of waiting for either.
    pub queue: Duration,
    /// Time of the inference of the whole batch that the picture was in.
    pub inference: Duration,
}

/// What was done since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EncoderCounters {
    /// Pictures that went through the model.
    pub images: u64,
    /// Runs of the model.
    pub batches: u64,
}

/// How a pipeline is built.
pub(super) struct PipelineConfig {
    pub limits: PictureLimits,
    pub preprocessing: Preprocessing,
    /// Of the vectors that come out.
    pub dimension: usize,
    /// Pictures of one client that are decoded at once.
    pub decode_threads: usize,
    /// Inference runs on the cores that decode: of one client, no more than those are in either.
    pub shared_cores: bool,
    pub max_batch: usize,
    /// How long a worker with less than a full batch waits for more.
    pub gather: Duration,
    /// Pictures that may be inside at once.
    pub queue: usize,
    /// An urgent picture that would wait longer is refused at once; a fifth of it counts once its line has stood for so
    /// long.
    pub urgent_wait: Duration,
    /// Memory that decoding may use in all, in bytes.
    pub decode_memory: u64,
    /// Undecoded bytes that may wait.
    pub waiting_bytes: usize,
    /// A decode that takes longer is given up.
    pub decode_patience: Duration,
}

/// The two pools. Dropping it stops the threads; what waits is answered with [`EncoderError::Stopped`].
pub(super) struct Pipeline {
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    waiting_bytes: Arc<Semaphore>,
    /// The thread that watches the decodes ends when this is dropped.
    _watched: mpsc::Sender<()>,
}

impl Pipeline {
    /// Starts the threads: one per worker, and those that decode.
    pub(super) fn start(config: PipelineConfig, workers: Vec<Box<dyn Infer>>) -> Result<Self, EncoderError> {
        let waiting = config.waiting_bytes.div_ceil(BYTES_PER_PERMIT);
        let slots = config.queue.clamp(1, Semaphore::MAX_PERMITS);
        let decode_threads = config.decode_threads.max(1);
        let shared = Arc::new(Shared {
            to_decode: Lines::new(decode_threads),
            to_infer: Lines::new(usize::MAX),
            budget: Budget::new(config.decode_memory),
            watch: Watch::new(config.decode_patience),
            ahead: workers.len().max(1) * config.max_batch.max(1),
            pace: Pace::new(decode_threads, workers.len(), config.shared_cores),
            config,
            images: AtomicU64::new(0),
            batches: AtomicU64::new(0),
        });
        let (watched, end) = mpsc::channel();
        let pipeline = Self {
            shared: Arc::clone(&shared),
            _watched: watched,
            slots: Arc::new(Semaphore::new(slots)),
            waiting_bytes: Arc::new(Semaphore::new(waiting.min(Semaphore::MAX_PERMITS))),
        };
        for number in 0..=decode_threads {
            let shared = Arc::clone(&shared);
            thread(format!("omma-decode-{number}"), move || shared.decode_loop())?;
        }
        let watching = Arc::clone(&shared);
        thread("omma-decode-watch".to_owned(), move || watching.watch_loop(&end))?;
        for (number, worker) in workers.into_iter().enumerate() {
            let shared = Arc::clone(&shared);
            thread(format!("omma-infer-{number}"), move || shared.infer_loop(worker))?;
        }
        Ok(pipeline)
    }

    /// Pictures inside, and how many may be.
    pub(super) fn occupancy(&self) -> (usize, usize) {
        let most = self.shared.config.queue.clamp(1, Semaphore::MAX_PERMITS);
        (most.saturating_sub(self.slots.available_permits()), most)
    }

    pub(super) fn counters(&self) -> EncoderCounters {
        EncoderCounters {
            images: self.shared.images.load(Ordering::Relaxed),
            batches: self.shared.batches.load(Ordering::Relaxed),
        }
    }

    /// How long what waits in `line` keeps the pools busy.
    pub(super) fn backlog(&self, line: Line) -> Duration {
        self.shared.pace.wait(self.shared.to_decode.waiting(line))
    }

    pub(super) async fn encode(&self, picture: Bytes, line: Line, deadline: Deadline) -> Result<Encoded, EncoderError> {
        let encoded = self.encode_now(picture, line, deadline).await;
        match &encoded {
            Ok(_) => PICTURES_OK.inc(),
            Err(EncoderError::Overloaded) => REFUSED.with(&["encoder"]).inc(),
            Err(EncoderError::Picture(_)) => PICTURES.with(&["picture"]).inc(),
            Err(EncoderError::DeadlineExceeded) => PICTURES.with(&["late"]).inc(),
            Err(_) => PICTURES.with(&["failed"]).inc(),
        }
        encoded
    }

    async fn encode_now(&self, picture: Bytes, line: Line, deadline: Deadline) -> Result<Encoded, EncoderError> {
        self.shared.config.limits.check_bytes(&picture)?;
        if deadline.passed() {
            return Err(EncoderError::DeadlineExceeded);
        }
        if line.urgent && self.waits_too_long(line) {
            return Err(EncoderError::Overloaded);
        }
        let slot = self.share(&self.slots, 1, line)?;
        let permits = u32::try_from(picture.len().div_ceil(BYTES_PER_PERMIT)).unwrap_or(u32::MAX);
        let bytes = self.share(&self.waiting_bytes, permits, line)?;
        let (answer, answered) = oneshot::channel();
        let ticket = Ticket { line, answer, deadline, trace: TracePoint::here(), _slot: slot };
        let undecoded = Undecoded { picture, ticket, since: Instant::now(), _bytes: bytes };
        self.shared.to_decode.push(line, undecoded, usize::MAX);
        match tokio::time::timeout_at(deadline.instant(), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(EncoderError::Stopped),
            Err(_) => Err(EncoderError::DeadlineExceeded),
        }
    }
}

impl Pipeline {
    /// Whether an urgent picture of `line` had better be refused.
    fn waits_too_long(&self, line: Line) -> bool {
        let (outlook, most) = (self.shared.to_decode.outlook(line), self.shared.config.urgent_wait);
        let most = if outlook.standing > most { most / STANDING } else { most };
        self.shared.pace.wait(outlook.ahead) > most
    }

    /// Permits for a picture of `line`; those of longer lines are taken back for it.
    fn share(&self, of: &Arc<Semaphore>, permits: u32, line: Line) -> Result<OwnedSemaphorePermit, EncoderError> {
        loop {
            if let Ok(taken) = Arc::clone(of).try_acquire_many_owned(permits) {
                return Ok(taken);
            }
            let Some(Undecoded { ticket, .. }) = self.shared.to_decode.shed(line) else {
                return Err(EncoderError::Overloaded);
            };
            ticket.answer(Err(EncoderError::Overloaded));
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.shared.to_decode.close();
        self.shared.to_infer.close();
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
