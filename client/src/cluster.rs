//! The state of the cluster, and which nodes it uses.

use omma_common::deadline::Deadline;
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::{
    DrainNodeRequest, GetClusterStatusRequest, GetClusterStatusResponse, ListMovesRequest, ListMovesResponse, Move,
    PauseMovesRequest, RemoveNodeRequest, ResumeMovesRequest, SetGroupCountRequest, SlotMove, UndrainNodeRequest,
};

use tonic::{Request, Response, Status};

use crate::call::{Link, Omma};
use crate::error::ClientError;
use crate::retry::Repeatable;

type Client = ClusterServiceClient<Link>;

impl Omma {
    /// Nodes, groups, leaders, applied indexes, record counts, digests, the encoder.
    pub async fn status(&self) -> Result<GetClusterStatusResponse, ClientError> {
        self.ask("GetClusterStatus", GetClusterStatusRequest {}, |mut client, request| async move {
            client.get_cluster_status(request).await
        })
        .await
    }

    /// Begins to move everything off a node, named by its id in decimal or its address; returns its id. The node is
    /// drained when its state in [`Omma::status`] says so.
    pub async fn drain_node(&self, node: &str) -> Result<u64, ClientError> {
        let request = DrainNodeRequest { node: node.to_owned() };
        Ok(self
            .ask("DrainNode", request, |mut client, request| async move { client.drain_node(request).await })
            .await?
            .node_id)
    }

    /// Lets a draining or drained node hold replicas again; returns its id.
    pub async fn undrain_node(&self, node: &str) -> Result<u64, ClientError> {
        let request = UndrainNodeRequest { node: node.to_owned() };
        Ok(self
            .ask("UndrainNode", request, |mut client, request| async move { client.undrain_node(request).await })
            .await?
            .node_id)
    }

    /// Takes a drained node out of the cluster for good; returns its id.
    pub async fn remove_node(&self, node: &str) -> Result<u64, ClientError> {
        let request = RemoveNodeRequest { node: node.to_owned() };
        Ok(self
            .ask("RemoveNode", request, |mut client, request| async move { client.remove_node(request).await })
            .await?
            .node_id)
    }

    /// Lets no replica move until [`Omma::resume_moves`].
    pub async fn pause_moves(&self) -> Result<(), ClientError> {
        self.ask(
            "PauseMoves",
            PauseMovesRequest {},
            |mut client, request| async move { client.pause_moves(request).await },
        )
        .await
        .map(drop)
    }

    /// Lets replicas move again.
    pub async fn resume_moves(&self) -> Result<(), ClientError> {
        self.ask("ResumeMoves", ResumeMovesRequest {}, |mut client, request| async move {
            client.resume_moves(request).await
        })
        .await
        .map(drop)
    }

    /// Says how many shard groups there are to be: the cluster adds or empties groups and moves slots by itself.
    /// [`Omma::status`] and [`Omma::slot_moves`] show how far it is.
    pub async fn set_group_count(&self, groups: u32) -> Result<(), ClientError> {
        let request = SetGroupCountRequest { group_count: groups };
        let call = |mut client: Client, request| async move { client.set_group_count(request).await };
        self.ask("SetGroupCount", request, call).await.map(drop)
    }

    /// The slots that are on their way from one shard group to another.
    pub async fn slot_moves(&self) -> Result<Vec<SlotMove>, ClientError> {
        let call = |mut client: Client, request| async move { client.list_moves(request).await };
        Ok(self.ask("ListMoves", ListMovesRequest::default(), call).await?.slot_moves)
    }

    /// The replicas that are on their way, and whether moves are paused.
    pub async fn moves(&self) -> Result<(Vec<Move>, bool), ClientError> {
        let mut all = Vec::new();
        let mut request = ListMovesRequest::default();
        loop {
            let call = |mut client: Client, request| async move { client.list_moves(request).await };
            let page: ListMovesResponse = self.ask("ListMoves", request.clone(), call).await?;
            all.extend(page.moves);
            if page.next_page_token.is_empty() {
                return Ok((all, page.paused));
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Makes a call that may be made again: each of these says how things should be.
    async fn ask<M, T, F, R>(&self, rpc: &'static str, message: M, call: F) -> Result<T, ClientError>
    where
        M: Clone,
        F: Fn(Client, Request<M>) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let attempt = |deadline: Deadline| call(self.cluster(), deadline.request(message.clone()));
        self.call(rpc, Repeatable::Yes, attempt).await
    }
}
