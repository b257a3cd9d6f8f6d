//! Clients of the coordinator, and the messages that they send.

use bytes::Bytes;
use omma_proto::v1 as pb;
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::collection_service_client::CollectionServiceClient;
use omma_proto::v1::image_service_client::ImageServiceClient;
use omma_proto::v1::new_image::Content;
use omma_proto::v1::query::Target;
use omma_proto::v1::search_service_client::SearchServiceClient;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::support::Cluster;

/// Clients of one coordinator.
pub struct Clients {
    pub collections: CollectionServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    pub search: SearchServiceClient<Channel>,
    pub cluster: ClusterServiceClient<Channel>,
    pub channel: Channel,
}

impl Clients {
    pub fn of(cluster: &Cluster) -> Self {
        Self::over(Endpoint::from_shared(cluster.address.clone()).unwrap().connect_lazy())
    }

    pub fn over(channel: Channel) -> Self {
        Self {
            collections: CollectionServiceClient::new(channel.clone()),
            images: ImageServiceClient::new(channel.clone()).max_encoding_message_size(64 << 20),
            search: SearchServiceClient::new(channel.clone()),
            cluster: ClusterServiceClient::new(channel.clone()),
            channel,
        }
    }

    pub async fn create(&mut self, name: &str) -> pb::Collection {
        let request = pb::CreateCollectionRequest { name: name.into(), ..Default::default() };
        self.collections.create_collection(request).await.unwrap().into_inner().collection.unwrap()
    }

    pub async fn put(&mut self, images: Vec<pb::NewImage>) -> Result<pb::PutImagesResponse, Status> {
        let request = pb::PutImagesRequest { collection: "c".into(), images, ..Default::default() };
        Ok(self.images.put_images(request).await?.into_inner())
    }

    pub async fn find(
        &mut self,
        target: Target,
        change: impl FnOnce(&mut pb::SearchRequest),
    ) -> Result<pb::SearchResponse, Status> {
        let query = pb::Query { target: Some(target), k: 3, ..Default::default() };
        let mut request = pb::SearchRequest { collection: "c".into(), query: Some(query), ..Default::default() };
        change(&mut request);
        Ok(self.search.search(request).await?.into_inner())
    }
}

pub async fn ready() -> (Cluster, Clients) {
    let cluster = Cluster::start().await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    (cluster, clients)
}

pub fn vector(id: &str, values: [f32; 4]) -> pb::NewImage {
    let content = Some(Content::Embedding(pb::Embedding { values: values.to_vec() }));
    pb::NewImage { id: id.into(), content, ..Default::default() }
}

pub fn picture(id: &str, bytes: &'static [u8]) -> pb::NewImage {
    pb::NewImage { id: id.into(), content: Some(Content::Picture(Bytes::from_static(bytes))), ..Default::default() }
}

pub fn direction(values: [f32; 4]) -> Target {
    Target::Embedding(pb::Embedding { values: values.to_vec() })
}

pub fn ids(response: &pb::SearchResponse) -> Vec<&str> {
    response.hits.iter().map(|h| h.id.as_str()).collect()
}
