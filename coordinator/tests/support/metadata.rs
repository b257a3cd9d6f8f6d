//! The service for the cluster's metadata.

use std::sync::atomic::Ordering;

use omma_proto::internal::v1 as node;
use omma_proto::internal::v1::metadata_command::Command;
use omma_proto::internal::v1::metadata_outcome::Outcome;
use omma_proto::internal::v1::metadata_service_server::MetadataService;
use omma_proto::v1 as pb;
use tonic::{Request, Response, Status};

use super::double::Double;

#[tonic::async_trait]
impl MetadataService for Double {
    async fn get_metadata(
        &self,
        request: Request<node::GetMetadataRequest>,
    ) -> Result<Response<node::GetMetadataResponse>, Status> {
        if self.script.down.load(Ordering::SeqCst) {
            return Err(Status::unavailable("scripted"));
        }
        let request = request.into_inner();
        if request.linearizable {
            self.lead(0)?;
        }
        let state = self.state.lock();
        let leaders = state.leaders.iter().map(|(&group_id, &(leader_node_id, term))| node::LeaderHint {
            group_id,
            leader_node_id,
            term,
        });
        let news = state.metadata.version > request.known_version;
        let metadata = news.then(|| state.metadata.clone());
        Ok(Response::new(node::GetMetadataResponse { metadata, leaders: leaders.collect() }))
    }

    async fn propose_metadata(
        &self,
        request: Request<node::ProposeMetadataRequest>,
    ) -> Result<Response<node::ProposeMetadataResponse>, Status> {
        self.lead(0)?;
        let mut state = self.state.lock();
        let metadata = &mut state.metadata;
        let refusal = |r: node::MetadataRefusal| Outcome::Refusal(r as i32);
        let at = |metadata: &node::Metadata, name: &str| {
            metadata.collections.iter().position(|c| c.collection.as_ref().unwrap().name == name)
        };
        let outcome = match request.into_inner().command.unwrap().command.unwrap() {
            Command::CreateCollection(c) => match at(metadata, &c.name) {
                Some(i) if metadata.collections[i].request_id == c.request_id => {
                    Outcome::Done(metadata.collections[i].collection.clone().unwrap())
                }
                Some(i) if metadata.collections[i].deleting => refusal(node::MetadataRefusal::CollectionDeleting),
                Some(_) => refusal(node::MetadataRefusal::CollectionExists),
                None => {
                    let collection = pb::Collection {
                        name: c.name,
                        uid: metadata.next_collection_uid,
                        vector_space: c.vector_space,
                        create_time: c.create_time,
                        image_count: 0,
                        quantization: c.quantization,
                    };
                    metadata.next_collection_uid += 1;
                    metadata.collections.push(node::CollectionEntry {
                        collection: Some(collection.clone()),
                        deleting: false,
                        request_id: c.request_id,
                    });
                    Outcome::Done(collection)
                }
            },
            Command::MarkCollectionDeleting(m) => match at(metadata, &m.name) {
                None => refusal(node::MetadataRefusal::CollectionNotFound),
                Some(i) if metadata.collections[i].deleting => refusal(node::MetadataRefusal::CollectionDeleting),
                Some(i) => {
                    metadata.collections[i].deleting = true;
                    Outcome::Done(metadata.collections[i].collection.clone().unwrap())
                }
            },
            Command::RemoveCollection(r) if metadata.groups.iter().any(|g| g.group_id > r.last_group_id) => {
                refusal(node::MetadataRefusal::StaleEpoch)
            }
            Command::RemoveCollection(r) => {
                metadata.collections.retain(|c| c.collection.as_ref().unwrap().uid != r.collection_uid);
                Outcome::Done(pb::Collection::default())
            }
            _ => refusal(node::MetadataRefusal::Invalid),
        };
        metadata.version += 1;
        let version = metadata.version;
        let outcome = node::MetadataOutcome { outcome: Some(outcome), version };
        Ok(Response::new(node::ProposeMetadataResponse { outcome: Some(outcome) }))
    }

    async fn discover(&self, _: Request<node::DiscoverRequest>) -> Result<Response<node::DiscoverResponse>, Status> {
        Err(Status::unimplemented("not asked by coordinators"))
    }

    async fn join(&self, _: Request<node::JoinRequest>) -> Result<Response<node::JoinResponse>, Status> {
        Err(Status::unimplemented("not asked by coordinators"))
    }
}
