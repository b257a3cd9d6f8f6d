//! The threads of a shard node's tasks.

use std::io;

use tokio::runtime::{Builder, Runtime};

use crate::config::cores;

/// tokio's own variable for the number of its workers, which goes before ours.
const WORKERS: &str = "TOKIO_WORKER_THREADS";

/// A runtime with a worker for every second core. Tasks only pass messages on; what computes (decoding, inference,
/// searches, graphs, logs) has threads of its own. More workers would wake each other for a task and find it taken.
pub fn runtime() -> io::Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    if std::env::var_os(WORKERS).is_none() {
        builder.worker_threads(cores().div_ceil(2));
    }
    builder.enable_all().build()
}
