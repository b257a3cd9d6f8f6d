//! What the threads do: decode, watch the decodes, infer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use fast_image_resize::Resizer;
use omma_common::deadline::Deadline;
use omma_common::vector::normalise;

use super::picture::{Decoded, Ticket, Undecoded};
use super::{Encoded, Infer, PipelineConfig};
use crate::encoder::budget::Budget;
use crate::encoder::caught::caught;
use crate::encoder::decode::decode;
use crate::encoder::error::{EncoderError, PictureError};
use crate::encoder::lines::{Line, Lines};
use crate::encoder::pace::Pace;
use crate::encoder::watch::{Desk, End, Overdue, Watch};
use crate::metrics::{BATCH_PICTURES, DECODE_SECONDS, ENCODER_QUEUE_SECONDS, INFERENCE_SECONDS};

/// What the threads of both pools work on.
pub(super) struct Shared {
    pub(super) config: PipelineConfig,
    pub(super) to_decode: Lines<Undecoded>,
    pub(super) to_infer: Lines<Decoded>,
    pub(super) budget: Budget,
    pub(super) watch: Watch<Ticket>,
    /// Decoded pictures that may wait for inference.
    pub(super) ahead: usize,
    pub(super) pace: Pace,
    pub(super) images: AtomicU64,
    pub(super) batches: AtomicU64,
}

impl Shared {
    pub(super) fn decode_loop(&self) {
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
    pub(super) fn watch_loop(self: &Arc<Self>, end: &mpsc::Receiver<()>) {
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
        let prepared = caught(|| self.config.preprocessing.apply(&pixels, resizer));
        prepared.unwrap_or_else(|| Err("the resizer gave up".into())).map_err(|reason| {
            // A panic may have left the buffers in any state.
            *resizer = Resizer::new();
            failed(reason)
        })
    }

    pub(super) fn infer_loop(&self, mut worker: Box<dyn Infer>) {
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

/// Starts a thread of one of the pools.
pub(super) fn thread(name: String, run: impl FnOnce() + Send + 'static) -> Result<(), EncoderError> {
    std::thread::Builder::new().name(name).spawn(run).map(drop).map_err(EncoderError::Threads)
}
