//! Waiting until a cluster is as it should be.

use std::time::Duration;

use anyhow::{Result, anyhow, bail};
use omma_proto::v1::GetClusterStatusResponse;
use tokio::time::Instant;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::{Cluster, Coordinator};
use crate::convergence::{not_converged, not_near, not_ready};

const POLL: Duration = Duration::from_millis(100);
/// How far apart the replicas of a group may be while it is written to.
const NEAR: u64 = 100;
const LOG_TAIL: u64 = 4_000;

impl Cluster {
    /// Waits until the coordinators are healthy and every group has a leader.
    ///
    /// # Errors
    /// If that takes longer than `patience` or a process ended (with the logs' tails).
    pub async fn wait_ready(&self, patience: Duration) -> Result<()> {
        self.wait("ready", patience, async |cluster: &Self| {
            for Coordinator { address, .. } in &cluster.coordinators {
                let mut health = HealthClient::new(cluster.connect(address)?.channel());
                let answer = health.check(HealthCheckRequest::default()).await?.into_inner();
                if answer.status() != ServingStatus::Serving {
                    bail!("{address} is {:?}", answer.status());
                }
            }
            not_ready(&cluster.status().await?, cluster.shape()).map_or(Ok(()), |why| Err(anyhow!(why)))
        })
        .await
    }

    /// Waits until all nodes are back and all replicas of every group are equal; returns that status.
    ///
    /// # Errors
    /// If that takes longer than `patience` or a process ended (with the logs' tails).
    pub async fn wait_converged(&self, patience: Duration) -> Result<GetClusterStatusResponse> {
        self.wait("converged", patience, async |cluster: &Self| {
            let status = cluster.status().await?;
            not_converged(&status, cluster.shape()).map_or(Ok(status), |why| Err(anyhow!(why)))
        })
        .await
    }

    /// Waits until all replicas are reachable and none is more than [`NEAR`] entries behind: as near to equal as it
    /// gets while images are written.
    ///
    /// # Errors
    /// If that takes longer than `patience` or a process ended (with the logs' tails).
    pub async fn wait_near(&self, patience: Duration) -> Result<GetClusterStatusResponse> {
        self.wait("near", patience, async |cluster: &Self| {
            let status = cluster.status().await?;
            not_near(&status, cluster.shape(), NEAR).map_or(Ok(status), |why| Err(anyhow!(why)))
        })
        .await
    }

    /// Tries until `check` passes; it sees the status.
    ///
    /// # Errors
    /// If that takes longer than `patience` or a process ended (with the logs' tails).
    pub async fn wait_until<T>(
        &self,
        what: &str,
        patience: Duration,
        check: impl AsyncFn(&Self, GetClusterStatusResponse) -> Result<T>,
    ) -> Result<T> {
        self.wait(what, patience, async |cluster: &Self| check(cluster, cluster.status().await?).await).await
    }

    /// Tries until `check` passes.
    async fn wait<T>(&self, what: &str, patience: Duration, check: impl AsyncFn(&Self) -> Result<T>) -> Result<T> {
        let begin = Instant::now();
        loop {
            let outcome = match tokio::time::timeout(Duration::from_secs(10), check(self)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(anyhow!("the check hung")),
            };
            let why = match outcome {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            if let Some((process, status)) = self.processes().find_map(|p| Some((p, p.ended()?))) {
                bail!("{} ended by itself ({status}) while waiting until {what}{}", process.name(), self.log_tails());
            }
            if begin.elapsed() > patience {
                bail!("not {what} after {patience:?}: {why:#}{}", self.log_tails());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn log_tails(&self) -> String {
        self.processes().map(|p| format!("\n--- {}\n{}", p.name(), p.log_tail(LOG_TAIL))).collect()
    }
}
