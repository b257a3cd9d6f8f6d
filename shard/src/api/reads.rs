//! Where reads run: so many at once, the short ones on the thread that received them.

use std::sync::atomic::{AtomicUsize, Ordering};

use omma_common::deadline::Deadline;
use omma_common::error::{ApiError, Reason};
use tokio::sync::OwnedSemaphorePermit;

use super::shard::{Answer, ShardApi};
use crate::metrics::REFUSED;
use crate::node::blocking;

impl ShardApi {
    /// Waits for a place among the reads that run.
    pub(super) async fn turn(&self, deadline: Deadline) -> Answer<OwnedSemaphorePermit> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let ahead = self.node.reads_waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.node.reads_waiting);
        if ahead >= self.node.config.search_queue {
            REFUSED.with(&["reads"]).inc();
            return Err(ApiError::new(Reason::Overloaded, format!("{ahead} reads are waiting already")));
        }
        let permit = deadline.run("a place to read", self.node.reads.clone().acquire_owned()).await?;
        permit.map_err(|_| ApiError::new(Reason::ShuttingDown, "the node is shutting down"))
    }

    /// Runs a read. A short one costs less than handing it to another thread and waking up for its answer.
    pub(super) async fn read<T: Send + 'static>(&self, short: bool, work: impl FnOnce() -> T + Send + 'static) -> T {
        match short.then(|| self.node.short_reads.try_acquire()) {
            Some(Ok(_place)) => work(),
            _ => blocking(work).await,
        }
    }
}
