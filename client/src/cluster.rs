//! The state of the cluster.

use omma_common::deadline::Deadline;
use omma_proto::v1::{GetClusterStatusRequest, GetClusterStatusResponse};

use crate::call::Omma;
use crate::error::ClientError;
use crate::retry::Repeatable;

impl Omma {
    /// Nodes, groups, leaders, applied indexes, record counts, digests, the encoder.
    pub async fn status(&self) -> Result<GetClusterStatusResponse, ClientError> {
        let attempt = |deadline: Deadline| {
            let (mut client, request) = (self.cluster(), deadline.request(GetClusterStatusRequest {}));
            async move { client.get_cluster_status(request).await }
        };
        self.call("GetClusterStatus", Repeatable::Yes, attempt).await
    }
}
