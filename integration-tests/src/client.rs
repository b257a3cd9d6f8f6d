//! The public API through nothing but the generated code, with what tests do over and over.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use omma_common::limits::MAX_MESSAGE_BYTES;
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::collection_service_client::CollectionServiceClient;
use omma_proto::v1::image_service_client::ImageServiceClient;
use omma_proto::v1::new_image::Content;
use omma_proto::v1::query::Target;
use omma_proto::v1::search_service_client::SearchServiceClient;
use omma_proto::v1::*;
use tokio::time::Instant;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// How long one call may take before a test calls it hung.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Sends an API key along, if there is one.
#[derive(Debug, Clone, Default)]
pub struct Credentials(Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// What the generated clients call through.
pub type Link = InterceptedService<Channel, Credentials>;

/// A connection to one coordinator. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    credentials: Credentials,
}

/// A channel to `address` (host:port) that connects when it is first used, and again whenever it must.
///
/// # Errors
/// If `address` is none.
pub fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.connect_timeout(Duration::from_secs(2)).timeout(CALL_TIMEOUT).connect_lazy())
}

impl Client {
    /// To the coordinator at `address`; connects at the first call.
    ///
    /// # Errors
    /// If `address` is none.
    pub fn to(address: &str) -> Result<Self> {
        Ok(Self { channel: channel(address)?, credentials: Credentials::default() })
    }

    /// As [`Client::to`], from another address of this machine: another client, where clients have no keys.
    ///
    /// # Errors
    /// If `address` is none.
    pub fn from(own: IpAddr, address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.local_address(Some(own));
        let channel = endpoint.connect_timeout(Duration::from_secs(2)).timeout(CALL_TIMEOUT).connect_lazy();
        Ok(Self { channel, credentials: Credentials::default() })
    }

    /// Over a channel of its own, with an API key.
    ///
    /// # Errors
    /// If the key cannot be a header.
    pub fn with_key(channel: Channel, key: &str) -> Result<Self> {
        Ok(Self { channel, credentials: Credentials(Some(format!("Bearer {key}").parse()?)) })
    }

    fn link(&self) -> Link {
        InterceptedService::new(self.channel(), self.credentials.clone())
    }

    /// The channel itself.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Generated client.
    pub fn collections(&self) -> CollectionServiceClient<Link> {
        CollectionServiceClient::new(self.link())
    }

    /// Generated client.
    pub fn images(&self) -> ImageServiceClient<Link> {
        // Larger than the server's limit, so that it is the server that refuses.
        ImageServiceClient::new(self.link())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(4 * MAX_MESSAGE_BYTES)
    }

    /// Generated client.
    pub fn searches(&self) -> SearchServiceClient<Link> {
        SearchServiceClient::new(self.link())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(4 * MAX_MESSAGE_BYTES)
    }

    /// Generated client.
    pub fn cluster(&self) -> ClusterServiceClient<Link> {
        ClusterServiceClient::new(self.link())
    }

    /// The state of the cluster.
    ///
    /// # Errors
    /// The call's.
    pub async fn status(&self) -> Result<GetClusterStatusResponse, Status> {
        Ok(self.cluster().get_cluster_status(GetClusterStatusRequest {}).await?.into_inner())
    }

    /// Creates a collection of pictures (`dimension` `None`: the encoder's space) or of embeddings.
    ///
    /// # Errors
    /// The call's, but for those that a retry cures.
    pub async fn create(&self, name: &str, dimension: Option<u32>) -> Result<Collection> {
        let request = CreateCollectionRequest {
            name: name.to_owned(),
            vector_space: dimension.map(|dimension| VectorSpace { id: format!("test-{dimension}"), dimension }),
            request_id: request_id(),
            ..CreateCollectionRequest::default()
        };
        let answer = retrying("CreateCollection", CALL_TIMEOUT, || {
            let (mut client, request) = (self.collections(), request.clone());
            async move { client.create_collection(request).await }
        });
        answer.await?.into_inner().collection.context("CreateCollection answered without a collection")
    }

    /// How many images a collection has.
    ///
    /// # Errors
    /// The call's.
    pub async fn count(&self, name: &str) -> Result<u64> {
        let answer = self.collections().get_collection(GetCollectionRequest { name: name.to_owned() }).await?;
        Ok(answer.into_inner().collection.context("GetCollection answered without a collection")?.image_count)
    }

    /// Puts images in one call, once.
    ///
    /// # Errors
    /// The call's.
    pub async fn put(&self, collection: &str, images: Vec<NewImage>) -> Result<PutImagesResponse, Status> {
        let request = PutImagesRequest { collection: collection.to_owned(), images, request_id: request_id() };
        Ok(self.images().put_images(request).await?.into_inner())
    }

    /// Puts images, every one of which must be stored; tries again with the same request id until `patience` is over.
    ///
    /// # Errors
    /// If one is refused, or none of the tries was answered in time.
    pub async fn store(
        &self,
        collection: &str,
        images: Vec<NewImage>,
        patience: Duration,
    ) -> Result<PutImagesResponse> {
        let request = PutImagesRequest { collection: collection.to_owned(), images, request_id: request_id() };
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let answer = retrying("PutImages", left, || {
                let (mut client, request) = (self.images(), request.clone());
                async move { client.put_images(request).await }
            });
            let answer = answer.await?.into_inner();
            let refused: Vec<_> =
                answer.results.iter().filter_map(|r| r.error.as_ref()).filter(|e| e.code != 0).collect();
            match refused.first() {
                None => return Ok(answer),
                Some(e) if may_help(Code::from(e.code)) && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Some(e) => bail!("an image was refused: {e:?}"),
            }
        }
    }

    /// Finds the neighbours of what `target` is, linearizably.
    ///
    /// # Errors
    /// The call's.
    pub async fn search(&self, collection: &str, target: Target, k: u32) -> Result<SearchResponse, Status> {
        self.search_where(collection, target, k, None).await
    }

    /// As [`Client::search`], of the images that satisfy `filter`.
    ///
    /// # Errors
    /// The call's.
    pub async fn search_where(
        &self,
        collection: &str,
        target: Target,
        k: u32,
        filter: Option<Filter>,
    ) -> Result<SearchResponse, Status> {
        let query = Query { target: Some(target), k, filter, ..Default::default() };
        let request = SearchRequest {
            collection: collection.to_owned(),
            query: Some(query),
            consistency: Consistency::Linearizable.into(),
            include_attributes: true,
            ..Default::default()
        };
        Ok(self.searches().search(request).await?.into_inner())
    }

    /// Whether an image is there, linearizably; with its embedding.
    ///
    /// # Errors
    /// The call's, but for `NOT_FOUND`.
    pub async fn get(&self, collection: &str, id: &str) -> Result<Option<Image>, Status> {
        let request = GetImageRequest {
            collection: collection.to_owned(),
            id: id.to_owned(),
            include_embedding: true,
            ..Default::default()
        };
        match self.images().get_image(request).await {
            Ok(answer) => Ok(answer.into_inner().image),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Deletes images, once; returns how many there were.
    ///
    /// # Errors
    /// The call's.
    pub async fn delete(&self, collection: &str, ids: &[&str]) -> Result<DeleteImagesResponse, Status> {
        let ids = ids.iter().map(|&i| i.to_owned()).collect();
        let request = DeleteImagesRequest { collection: collection.to_owned(), ids, request_id: request_id() };
        Ok(self.images().delete_images(request).await?.into_inner())
    }
}

const RETRY_PAUSE: Duration = Duration::from_millis(30);

/// Whether a call that failed so may succeed when it is made again.
pub fn may_help(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::ResourceExhausted | Code::DeadlineExceeded | Code::Aborted | Code::Cancelled
    )
}

/// Makes a call until it succeeds, fails for good, or `patience` is over.
///
/// # Errors
/// The last try's.
pub async fn retrying<T, F, W>(what: &str, patience: Duration, mut call: F) -> Result<T>
where
    F: FnMut() -> W,
    W: Future<Output = Result<T, Status>>,
{
    let deadline = Instant::now() + patience;
    loop {
        match tokio::time::timeout_at(deadline + CALL_TIMEOUT, call()).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(status)) if may_help(status.code()) && Instant::now() < deadline => {
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            Ok(Err(status)) => return Err(status).with_context(|| format!("{what}, tried for {patience:?}")),
            Err(_) => bail!("{what} hung"),
        }
    }
}

/// A new request id.
pub fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// An image put as a picture.
pub fn picture_image(id: &str, picture: Bytes) -> NewImage {
    NewImage { id: id.to_owned(), content: Some(Content::Picture(picture)), attributes: Default::default() }
}

/// An image put as an embedding.
pub fn vector_image(id: &str, values: Vec<f32>) -> NewImage {
    let content = Some(Content::Embedding(Embedding { values }));
    NewImage { id: id.to_owned(), content, attributes: Default::default() }
}

/// A query by embedding.
pub fn by_vector(values: &[f32]) -> Target {
    Target::Embedding(Embedding { values: values.to_vec() })
}

/// The ids of an answer, best first.
pub fn ids(answer: &SearchResponse) -> Vec<&str> {
    answer.hits.iter().map(|h| h.id.as_str()).collect()
}
