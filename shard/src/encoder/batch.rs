//! From bytes to vectors through two pools of threads: decoding, then inference in micro-batches across requests.
//!
//! A picture that waits holds a slot (how many may be in the encoder at once) and, until it is decoded, a share of the
//! bytes that may wait. Both are taken without waiting: when there is none, the last of the longest line has to go, or
//! the caller is told at once. Decoding stays a little ahead of inference and no more, so that what waits can still be
//! refused.
//!
//! There is one decoding thread more than one client may keep busy: whoever sends a single picture finds it free,
//! whatever another client floods the encoder with. Where inference takes the cores that decoding takes, the bound is for
//! both together: else a flood would have twice as many threads as there are cores, and everybody's work would crawl.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fast_image_resize::Resizer;
use omma_common::deadline::Deadline;
use omma_common::telemetry::TracePoint;
use omma_common::vector::normalise;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::budget::Budget;
use super::decode::{PictureLimits, decode};
use super::error::{EncoderError, PictureError};
use super::lines::{Line, Lines};
use super::pace::Pace;
use super::preprocess::Preprocessing;
use super::watch::{Desk, End, Overdue, Watch};
use crate::metrics::{
    BATCH_PICTURES, DECODE_SECONDS, ENCODER_QUEUE_SECONDS, INFERENCE_SECONDS, PICTURES, PICTURES_OK, REFUSED,
};

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

struct Shared {
    config: PipelineConfig,
    to_decode: Lines<Undecoded>,
    to_infer: Lines<Decoded>,
    budget: Budget,
    watch: Watch<Ticket>,
    /// Decoded pictures that may wait for inference.
    ahead: usize,
    pace: Pace,
    images: AtomicU64,
    batches: AtomicU64,
}

/// The caller's side of a picture.
struct Ticket {
    line: Line,
    answer: oneshot::Sender<Result<Encoded, EncoderError>>,
    deadline: Deadline,
    trace: TracePoint,
    _slot: OwnedSemaphorePermit,
}

struct Undecoded {
    picture: Bytes,
    ticket: Ticket,
    since: Instant,
    _bytes: OwnedSemaphorePermit,
}

struct Decoded {
    numbers: Vec<f32>,
    ticket: Ticket,
    since: Instant,
    decode: Duration,
    queue: Duration,
}

impl Ticket {
    fn answer(self, result: Result<Encoded, EncoderError>) {
        // The caller may have gone: then nobody wants to know.
        let _ = self.answer.send(result);
    }

    /// The ticket if somebody still waits for it; else it is dropped, with an answer if only the time is over.
    fn wanted(self) -> Option<Self> {
        if self.answer.is_closed() {
            None
        } else if self.deadline.passed() {
            self.answer(Err(EncoderError::DeadlineExceeded));
            None
        } else {
            Some(self)
        }
    }
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

impl Shared {
    fn decode_loop(&self) {
        let (desk, mut resizer) = (self.watch.desk(), Resizer::new());
        while let Some((line, Undecoded { picture, ticket, since, _bytes })) = self.next_undecoded() {
            let Some(ticket) = ticket.wanted() else {
                self.to_decode.done(line);
                continue;
            };
            let start = Instant::now();
            let queue = start - since;
            ticket.trace.interval("decode queue", since, start, &[]);
            let deadline = ticket.deadline;
            desk.begin(ticket);
            let prepared = self.prepare(&picture, &mut resizer, deadline, &desk);
            let end = Instant::now();
            let ticket = match desk.end() {
                End::Done(ticket) => ticket,
                End::TooLate { replaced: true } => return,
                End::TooLate { replaced: false } => continue,
            };
            let decode = end - start;
            ticket.trace.interval("decode", start, end, &[]);
            self.pace.decoded(decode);
            match prepared {
                Ok(numbers) => {
                    DECODE_SECONDS.took(decode);
                    self.to_infer.push(line, Decoded { numbers, ticket, since: end, decode, queue }, self.ahead);
                    if self.config.shared_cores {
                        // Still at work: see `infer_loop`.
                        continue;
                    }
                }
                Err(error) => ticket.answer(Err(error.into())),
            }
            // Not before: a thread that waits for room before inference is one that its client keeps busy.
            self.to_decode.done(line);
        }
    }

    fn next_undecoded(&self) -> Option<(Line, Undecoded)> {
        self.to_decode.pop(1, Duration::ZERO)?.pop()
    }

    /// Answers pictures whose decoding takes too long, and starts threads in the place of those that are lost to them.
    fn watch_loop(self: &Arc<Self>, end: &mpsc::Receiver<()>) {
        while end.recv_timeout(self.watch.period()) == Err(mpsc::RecvTimeoutError::Timeout) {
            for Overdue { ticket, replace } in self.watch.look() {
                let limit = self.watch.patience();
                tracing::warn!(?limit, replace, "gave up a picture that takes too long to decode");
                // Its client must not wait for a thread that may never come back.
                self.to_decode.done(ticket.line);
                ticket.answer(Err(PictureError::TooSlow { limit }.into()));
                let shared = Arc::clone(self);
                if replace && let Err(error) = thread("omma-decode-new".to_owned(), move || shared.decode_loop()) {
                    tracing::error!(%error, "there is one thread less that decodes");
                }
            }
        }
    }

    fn prepare(
        &self,
        picture: &[u8],
        resizer: &mut Resizer,
        deadline: Deadline,
        desk: &Desk<Ticket>,
    ) -> Result<Vec<f32>, PictureError> {
        let mut share = None;
        let pixels = decode(picture, &self.config.limits, &mut |bytes| {
            share = desk.aside(|| self.budget.take(bytes, deadline));
            share.is_some()
        })?;
        let failed = |reason| PictureError::Damaged { format: "decoded", reason };
        let prepared = catch_unwind(AssertUnwindSafe(|| self.config.preprocessing.apply(&pixels, resizer)));
        prepared.unwrap_or_else(|_| Err("the resizer gave up".into())).map_err(|reason| {
            // A panic may have left the buffers in any state.
            *resizer = Resizer::new();
            failed(reason)
        })
    }

    fn infer_loop(&self, mut worker: Box<dyn Infer>) {
        while let Some(batch) = self.to_infer.pop(self.config.max_batch.max(1), self.config.gather) {
            let (lines, batch): (Vec<Line>, Vec<Decoded>) = batch.into_iter().unzip();
            let wanted: Vec<Decoded> =
                batch.into_iter().filter_map(|job| Some(Decoded { ticket: job.ticket.wanted()?, ..job })).collect();
            if !wanted.is_empty() {
                self.infer(worker.as_mut(), wanted);
            }
            for line in lines {
                self.to_infer.done(line);
                if self.config.shared_cores {
                    self.to_decode.done(line);
                }
            }
        }
    }

    fn infer(&self, worker: &mut dyn Infer, mut batch: Vec<Decoded>) {
        let start = Instant::now();
        let joined: Vec<f32> = match batch.as_mut_slice() {
            [one] => std::mem::take(&mut one.numbers),
            many => many.iter().map(|job| job.numbers.as_slice()).collect::<Vec<_>>().concat(),
        };
        let result = catch_unwind(AssertUnwindSafe(|| worker.run(&joined, batch.len())))
            .unwrap_or_else(|_| Err("the runtime panicked".into()))
            .and_then(|vectors| match vectors.len() == batch.len() {
                true => Ok(vectors),
                false => Err(format!("{} vectors for {} pictures", vectors.len(), batch.len())),
            });
        let end = Instant::now();
        let inference = end - start;
        self.pace.inferred(inference / u32::try_from(batch.len()).unwrap_or(1).max(1));
        let vectors = match result {
            Ok(vectors) => vectors,
            Err(problem) => {
                batch.into_iter().for_each(|job| job.ticket.answer(Err(EncoderError::Inference(problem.clone()))));
                return;
            }
        };
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.images.fetch_add(batch.len() as u64, Ordering::Relaxed);
        INFERENCE_SECONDS.took(inference);
        BATCH_PICTURES.observe(batch.len() as f64);
        let pictures = batch.len() as i64;
        for (job, mut embedding) in batch.into_iter().zip(vectors) {
            let queue = job.queue + start.saturating_duration_since(job.since);
            ENCODER_QUEUE_SECONDS.took(queue);
            job.ticket.trace.interval("inference queue", job.since, start, &[]);
            job.ticket.trace.interval("inference", start, end, &[("pictures", pictures)]);
            let checked = normalise(&mut embedding, self.config.dimension).map_err(EncoderError::from);
            job.ticket.answer(checked.map(|()| Encoded { embedding, decode: job.decode, queue, inference }));
        }
    }
}

fn thread(name: String, run: impl FnOnce() + Send + 'static) -> Result<(), EncoderError> {
    std::thread::Builder::new().name(name).spawn(run).map(drop).map_err(EncoderError::Threads)
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
