//! Cuts for backups, and records that come back from them.

use omma_common::deadline::Deadline;
use omma_common::error::ApiError;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::*;

use super::checks::check_leader;
use super::shard::{Answer, ShardApi};
use crate::group::Barrier;
use crate::images::command::RECORDS_PER_COMMAND;
use crate::node::blocking;

/// Bytes of records in one answer, about: far from the largest message, so that even one large record fits.
const PAGE_BYTES: usize = 4 << 20;

impl ShardApi {
    /// Of the leader's replica, which has everything that was acknowledged.
    pub(super) async fn cut_collection(
        &self,
        request: CutCollectionRequest,
        deadline: Deadline,
    ) -> Answer<CutCollectionResponse> {
        let (shard, target) = self.shard(request.target)?;
        shard.replica.read_barrier(Barrier::Linearizable, deadline).await?;
        let (node, group) = (self.node.clone(), target.group_id);
        let cut =
            blocking(move || shard.state.cut(target.collection_uid).map_err(|error| node.read_error(group, &error)))
                .await?;
        Ok(CutCollectionResponse {
            node_id: self.node.node_id,
            cut_id: cut.id,
            applied_index: cut.applied,
            image_count: cut.images,
        })
    }

    /// From whatever this replica is by now: the cut stays as it was.
    pub(super) async fn read_cut(&self, request: ReadCutRequest, deadline: Deadline) -> Answer<ReadCutResponse> {
        let (shard, target) = self.shard(request.target)?;
        let turn = self.turn(0, deadline).await?;
        let (node, group) = (self.node.clone(), target.group_id);
        let page = blocking(move || {
            let _turn = turn;
            let read = shard.state.read_cut(request.cut_id, target.collection_uid, request.after_key, PAGE_BYTES);
            read.map_err(|error| node.read_error(group, &error))
        })
        .await?;
        Ok(ReadCutResponse { records: page.records, done: page.done })
    }

    pub(super) async fn import_records(
        &self,
        request: ImportRecordsRequest,
        deadline: Deadline,
    ) -> Answer<ImportRecordsResponse> {
        let (shard, target) = self.shard(request.target)?;
        check_leader(&self.node, &shard.replica.status())?;
        self.node.check_room(&shard.replica.status())?;
        self.check_tail(&shard.state, target.collection_uid)?;
        if request.records.len() > RECORDS_PER_COMMAND {
            return Err(ApiError::field("records", format!("are more than {RECORDS_PER_COMMAND}")));
        }
        let command = Command::Put(PutRecords {
            dimension: target.dimension,
            records: request.records,
            quantization: target.quantization,
        });
        let (_, applied_index) =
            self.propose(&shard, &request.request_id, target.collection_uid, command, deadline).await?;
        Ok(ImportRecordsResponse { applied_index })
    }
}
