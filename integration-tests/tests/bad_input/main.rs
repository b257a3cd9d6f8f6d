//! What must be refused: each with its code, reason and field, and nothing of it stored.

mod images;
mod messages;
mod model_folder;
mod queries;
mod requests;

use std::time::Duration;

use anyhow::Result;
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use tokio::sync::OnceCell;

const PATIENCE: Duration = Duration::from_secs(30);

/// One for all tests of this process.
async fn cluster() -> Result<&'static Cluster> {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER.get_or_try_init(|| Cluster::start(ClusterOptions::named("bad_input"))).await
}
