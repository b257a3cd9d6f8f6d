//! Runs operations by a schedule and measures them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use omma_client::ClientError;
use tokio::sync::Semaphore;

use super::schedule::Schedule;
use super::tally::Tally;
use crate::exit::CliError;

/// How long the clock thread of an open loop sleeps at a time, at most.
const NAP: Duration = Duration::from_millis(100);

/// What a run took.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) tally: Tally,
    /// From the first operation's begin to the last one's end.
    pub(super) took: Duration,
}

struct Shared {
    schedule: Schedule,
    begin: Instant,
    next: AtomicU64,
    tally: Mutex<Tally>,
    /// Open loops: as many permits as operations were due so far.
    due: Semaphore,
}

impl Shared {
    /// The next operation and when it was to begin; `None` when there is none any more.
    async fn next(&self) -> Option<(u64, Instant)> {
        if self.schedule.rate.is_some() {
            self.due.acquire().await.ok()?.forget();
        }
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        let elapsed = self.begin.elapsed();
        self.schedule.wants(i, elapsed).then(|| (i, self.begin + self.schedule.intended(i).unwrap_or(elapsed)))
    }

    fn record(&self, intended: Instant, started: Instant, outcome: Result<u64, ClientError>) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.started_late(started.saturating_duration_since(intended));
        match outcome {
            Ok(images) => tally.done(images, intended.elapsed()),
            Err(error) => tally.failed(&error),
        }
    }

    /// Lets operations go when they are due. A thread of its own: the runtime's timers are a millisecond coarse.
    fn keep_time(&self) {
        let mut i = 0;
        while let Some(intended) = self.schedule.intended(i).filter(|_| self.schedule.wants(i, Duration::ZERO)) {
            match intended.checked_sub(self.begin.elapsed()) {
                Some(early) if !early.is_zero() => std::thread::sleep(early.min(NAP)),
                _ => {
                    self.due.add_permits(1);
                    i += 1;
                }
            }
            if self.due.is_closed() {
                return;
            }
        }
    }
}

/// Runs `operation` (number, client) by `schedule` with so many clients. It says how many images it was about.
pub(super) async fn drive<F, R>(schedule: Schedule, clients: usize, operation: F) -> Result<Run, CliError>
where
    F: Fn(u64, usize) -> R + Clone + Send + 'static,
    R: Future<Output = Result<u64, ClientError>> + Send,
{
    let shared = Arc::new(Shared {
        schedule,
        begin: Instant::now(),
        next: AtomicU64::new(0),
        tally: Mutex::new(Tally::new().map_err(CliError::Failed)?),
        due: Semaphore::new(0),
    });
    let clock = schedule.rate.map(|_| {
        let (shared, clients) = (shared.clone(), clients);
        std::thread::spawn(move || {
            shared.keep_time();
            // Whoever waits must find out that nothing is due any more.
            shared.due.add_permits(clients);
        })
    });
    let mut workers = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (shared, operation) = (shared.clone(), operation.clone());
        workers.spawn(async move {
            while let Some((i, intended)) = shared.next().await {
                let started = Instant::now();
                let outcome = operation(i, client).await;
                shared.record(intended, started, outcome);
            }
        });
    }
    let ended = async {
        while let Some(worker) = workers.join_next().await {
            worker.map_err(|e| CliError::Failed(format!("a client of the load generator ended: {e}")))?;
        }
        Ok::<(), CliError>(())
    };
    let outcome = ended.await;
    shared.due.close();
    if let Some(clock) = clock
        && clock.join().is_err()
    {
        return Err(CliError::Failed("the load generator's clock ended".into()));
    }
    outcome?;
    let took = shared.begin.elapsed();
    let mut tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Run { tally: std::mem::replace(&mut *tally, Tally::new().map_err(CliError::Failed)?), took })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_closed_loop_runs_each_operation_once() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let schedule = Schedule { rate: None, operations: Some(50), lasts: None };
        let operation = {
            let seen = seen.clone();
            move |i, client| {
                let seen = seen.clone();
                async move {
                    tokio::task::yield_now().await;
                    seen.lock().unwrap().push((i, client));
                    if i == 7 { Err(tonic::Status::unavailable("x").into()) } else { Ok(2) }
                }
            }
        };
        let run = drive(schedule, 4, operation).await.unwrap();
        let mut seen = seen.lock().unwrap().clone();
        seen.sort_unstable();
        assert_eq!(seen.iter().map(|(i, _)| *i).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
        assert_eq!((run.tally.succeeded(), run.tally.images, run.tally.error_count()), (49, 98, 1));
    }

    /// One operation stalls; those that were due meanwhile waited, and their latencies say so.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_open_loop_omits_nothing() {
        let schedule = Schedule { rate: Some(100.0), operations: Some(100), lasts: None };
        let operation = |i, _| async move {
            if i == 20 {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Ok(1)
        };
        let run = drive(schedule, 1, operation).await.unwrap();
        let latency = run.tally.latency().unwrap();
        assert_eq!(run.tally.succeeded(), 100);
        // Operations 20 to 69 waited 500 ms down to 0: half of all, the median of those 250 ms.
        assert!(latency.p90 >= Duration::from_millis(350), "{latency:?}");
        assert!(latency.max >= Duration::from_millis(490), "{latency:?}");
        assert!(run.tally.latest_start >= Duration::from_millis(400), "{:?}", run.tally.latest_start);
        assert!(run.took >= Duration::from_millis(980), "{:?}", run.took);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_open_loop_begins_on_time() {
        let schedule = Schedule { rate: Some(500.0), operations: None, lasts: Some(Duration::from_millis(400)) };
        let run = drive(schedule, 8, |_, _| async { Ok(1) }).await.unwrap();
        assert_eq!(run.tally.succeeded(), 200);
        assert!(run.took >= Duration::from_millis(390), "{:?}", run.took);
    }
}
