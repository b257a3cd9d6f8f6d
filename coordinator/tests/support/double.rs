//! One node that is none: how it misbehaves, what it leads, what it stores.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use omma_common::error::{ApiError, Reason};
use omma_common::vector;
use omma_proto::internal::v1 as node;
use omma_proto::v1 as pb;
use omma_proto::v1::new_image::Content;
use parking_lot::Mutex;
use tonic::Status;

use super::{DIMENSION, Script, State};

/// One node.
#[derive(Debug, Clone)]
pub struct Double {
    pub id: u64,
    pub state: Arc<Mutex<State>>,
    pub script: Arc<Script>,
}

/// A picture's embedding: its first four bytes.
pub fn embed(picture: &[u8]) -> Option<Vec<f32>> {
    let mut v: Vec<f32> = picture.get(..4)?.iter().map(|b| f32::from(*b) - 100.0).collect();
    vector::normalise(&mut v, DIMENSION as usize).ok().map(|()| v)
}

pub fn bad_picture() -> ApiError {
    ApiError::bad_field(Reason::InvalidPicture, "picture", "is damaged")
}

impl Double {
    /// Waits and fails as the script says.
    pub async fn misbehave(&self) -> Result<(), Status> {
        let delay = *self.script.delay.lock();
        tokio::time::sleep(delay).await;
        if self.script.down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("scripted"));
        }
        Ok(())
    }

    pub fn lead(&self, group: u32) -> Result<(), Status> {
        let state = self.state.lock();
        if state.dead_groups.contains(&group) {
            return Err(ApiError::new(Reason::GroupUnavailable, "no majority").into());
        }
        let leader = state.leaders[&group].0;
        if leader == self.id {
            return Ok(());
        }
        let address = state.metadata.nodes[leader as usize - 1].address.clone();
        let error = ApiError::new(Reason::NotLeader, "another leads");
        Err(error.with("leader_node_id", leader).with("leader_address", address).into())
    }

    pub fn admit(&self, target: Option<&node::Target>, lead: bool) -> Result<node::Target, Status> {
        let target = target.cloned().ok_or_else(|| Status::invalid_argument("target"))?;
        if lead {
            self.lead(target.group_id)?;
        }
        let state = self.state.lock();
        if state.dead_groups.contains(&target.group_id) {
            return Err(ApiError::new(Reason::GroupUnavailable, "no majority").into());
        }
        if state.dropped.contains(&(target.group_id, target.collection_uid)) {
            return Err(ApiError::new(Reason::CollectionNotFound, "dropped").into());
        }
        Ok(target)
    }

    pub fn put(&self, target: &node::Target, request: &node::PutImagesRequest) -> node::PutImagesResponse {
        let mut state = self.state.lock();
        let group = target.group_id;
        state.request_ids.push((group, request.request_id.clone()));
        let key = (group, request.request_id.clone());
        if let Some(results) = state.answers.get(&key) {
            return node::PutImagesResponse { results: results.clone(), applied_index: state.applied[&group] };
        }
        let mut results = vec![];
        for image in &request.images {
            let embedding = match image.content.as_ref().unwrap() {
                Content::Picture(p) => embed(p),
                Content::Embedding(e) => Some(e.values.clone()),
            };
            let records = state.records.entry(group).or_default();
            let result = match embedding {
                None => pb::PutResult { error: Some(bad_picture().to_rpc_status()), ..Default::default() },
                Some(v) => {
                    let key = (target.collection_uid, image.id.clone());
                    let old = records.insert(key, (v, image.attributes.clone()));
                    let effect = if old.is_some() { pb::PutEffect::Replaced } else { pb::PutEffect::Created };
                    pb::PutResult { effect: effect as i32, ..Default::default() }
                }
            };
            results.push(pb::PutResult { id: image.id.clone(), ..result });
        }
        let applied = state.applied.entry(group).or_default();
        *applied += 1;
        let applied_index = *applied;
        state.answers.insert(key, results.clone());
        node::PutImagesResponse { results, applied_index }
    }
}
