//! Measures the recall of real queries: a small share of them is answered again, exactly, when there is time.
//!
//! One thread at a fraction of one core, one query at a time, one waiting; more are passed over.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::images::ImageState;
use crate::images::recall::Answered;
use crate::metrics::{RECALL_EXPECTED, RECALL_FOUND, RECALL_QUERIES};

/// After this much work …
const WORK: Duration = Duration::from_millis(2);
/// … the thread rests so many times as long.
const REST: u32 = 19;
/// A look at all records that takes longer, rests among it, is given up.
const PATIENCE: Duration = Duration::from_secs(300);

type Job = (ImageState, Answered);

/// The thread and the way to it.
pub(crate) struct RecallSampler {
    share: f64,
    jobs: Mutex<Option<SyncSender<Job>>>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl RecallSampler {
    /// `share` of the queries, 0 to 1.
    pub(super) fn start(share: f64) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(1);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = (share > 0.0).then(|| {
            let stop = stop.clone();
            std::thread::Builder::new().name("recall".into()).spawn(move || {
                while let Ok(job) = queue.recv() {
                    measure(&job, &stop);
                }
            })
        });
        let thread = Mutex::new(thread.transpose()?);
        Ok(Self { share, jobs: Mutex::new(Some(jobs)), stop, thread })
    }

    /// Whether this query is one of the share.
    pub(crate) fn wants(&self) -> bool {
        self.share > 0.0 && rand::random::<f64>() < self.share
    }

    /// Takes an answer to be measured, if none waits.
    pub(crate) fn offer(&self, state: &ImageState, answered: Answered) {
        if let Some(jobs) = self.jobs.lock().as_ref() {
            // Full, or stopped: then this one is not measured.
            let _ = jobs.try_send((state.clone(), answered));
        }
    }

    /// Ends the thread. Blocks, shortly.
    pub(super) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        self.jobs.lock().take();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            tracing::error!("measuring recall panicked");
        }
    }
}

fn measure((state, answered): &Job, stop: &AtomicBool) {
    let end = Instant::now() + PATIENCE;
    let mut since = Instant::now();
    let goes_on = || {
        if since.elapsed() > WORK {
            std::thread::sleep(since.elapsed() * REST);
            since = Instant::now();
        }
        !stop.load(Ordering::Relaxed) && since < end
    };
    match state.recall(answered, goes_on) {
        Ok(Some(recall)) => {
            RECALL_QUERIES.inc();
            RECALL_EXPECTED.add(recall.expected as u64);
            RECALL_FOUND.add(recall.found as u64);
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "the recall of a query could not be measured"),
    }
}
