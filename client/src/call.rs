//! The handle, and how each call is made: deadline, retries, message sizes.

use std::time::Duration;

use omma_common::deadline::Deadline;
use omma_common::retry::Backoff;
use omma_proto::v1::SessionToken;
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::collection_service_client::CollectionServiceClient;
use omma_proto::v1::image_service_client::ImageServiceClient;
use omma_proto::v1::search_service_client::SearchServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::Instrument;
use uuid::Uuid;

use crate::connect::Builder;
use crate::error::ClientError;
use crate::retry::{Repeatable, decide};
use crate::session::Session;

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) timeout: Duration,
    pub(crate) tries: u32,
    pub(crate) max_message_bytes: usize,
}

/// What each call carries to say who makes it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Credentials(pub(crate) Option<MetadataValue<Ascii>>);

impl Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// What the generated clients call through.
pub(crate) type Link = InterceptedService<Channel, Credentials>;

/// A connection to a cluster. Cheap to clone; clones share the connection.
#[derive(Debug, Clone)]
pub struct Omma {
    link: Link,
    pub(crate) settings: Settings,
    session: Option<Session>,
}

impl Omma {
    /// Connects with default settings; `endpoint` is that of a coordinator, such as `http://127.0.0.1:7700`.
    pub async fn connect(endpoint: impl Into<String>) -> Result<Self, ClientError> {
        Self::builder(endpoint).connect().await
    }

    /// Connects with other settings.
    pub fn builder(endpoint: impl Into<String>) -> Builder {
        Builder::new(endpoint)
    }

    pub(crate) fn over(channel: Channel, credentials: Credentials, settings: Settings) -> Self {
        Self { link: InterceptedService::new(channel, credentials), settings, session: None }
    }

    /// A handle whose writes are remembered in `session` and whose reads hand it in.
    pub fn with_session(&self, session: Session) -> Self {
        Self { session: Some(session), ..self.clone() }
    }

    /// A handle whose calls have another deadline.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        let mut other = self.clone();
        other.settings.timeout = timeout;
        other
    }

    pub(crate) fn remember(&self, token: Option<&SessionToken>) {
        if let Some(session) = &self.session {
            session.record(token);
        }
    }

    pub(crate) fn session_tokens(&self) -> Vec<SessionToken> {
        self.session.as_ref().map(Session::tokens).unwrap_or_default()
    }

    pub(crate) fn link(&self) -> Link {
        self.link.clone()
    }

    pub(crate) fn collections(&self) -> CollectionServiceClient<Link> {
        let most = self.settings.max_message_bytes;
        CollectionServiceClient::new(self.link.clone()).max_decoding_message_size(most)
    }

    pub(crate) fn images(&self) -> ImageServiceClient<Link> {
        let most = self.settings.max_message_bytes;
        ImageServiceClient::new(self.link.clone()).max_decoding_message_size(most).max_encoding_message_size(most)
    }

    pub(crate) fn searches(&self) -> SearchServiceClient<Link> {
        let most = self.settings.max_message_bytes;
        SearchServiceClient::new(self.link.clone()).max_decoding_message_size(most).max_encoding_message_size(most)
    }

    pub(crate) fn cluster(&self) -> ClusterServiceClient<Link> {
        let most = self.settings.max_message_bytes;
        ClusterServiceClient::new(self.link.clone()).max_decoding_message_size(most)
    }

    /// Makes a call, again if that may help, until it is answered or its deadline passes.
    pub(crate) async fn call<T, F, R>(
        &self,
        rpc: &'static str,
        repeatable: Repeatable,
        attempt: F,
    ) -> Result<T, ClientError>
    where
        F: Fn(Deadline) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let span = tracing::info_span!("call", otel.name = rpc, otel.kind = "client");
        self.repeat(repeatable, attempt).instrument(span).await
    }

    async fn repeat<T, F, R>(&self, repeatable: Repeatable, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(Deadline) -> R,
        R: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Deadline::after(self.settings.timeout);
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(2));
        let (mut tries, mut last) = (0, None);
        loop {
            tries += 1;
            let error = match tokio::time::timeout_at(deadline.instant(), attempt(deadline)).await {
                Ok(Ok(response)) => return Ok(response.into_inner()),
                Ok(Err(status)) => ClientError::from(status),
                Err(_) => return Err(self.no_answer(last)),
            };
            if error.is_late() {
                return Err(self.no_answer(last));
            }
            let wait = decide(&error, repeatable, tries, self.settings.tries, backoff.next_wait(), deadline.left());
            let Some(wait) = wait else { return Err(error) };
            last = Some(error);
            tokio::time::sleep(wait).await;
        }
    }

    fn no_answer(&self, last: Option<ClientError>) -> ClientError {
        ClientError::too_late(format!("no answer within {:?}", self.settings.timeout), last)
    }
}

pub(crate) fn new_request_id() -> String {
    Uuid::new_v4().to_string()
}
