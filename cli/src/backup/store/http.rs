//! Requests to web servers, over the connections that everything else here makes: the same TLS, and plaintext only on
//! loopback or where it was asked for by name.

use std::error::Error as StdError;
use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::{BodyExt, Limited};
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use omma_common::tls::{Dialer, Plaintext, ServerTrust, Wire};
use tokio::sync::Semaphore;

/// Requests at once, whoever sends them: a slow way out is not shared by so many that all are too slow.
const AT_ONCE: usize = 4;
/// No answer is larger.
const LARGEST_ANSWER: usize = 8 << 20;
const IDLE: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(60);

/// Makes HTTP clients; all of them together send a few requests at once.
#[derive(Debug, Clone)]
pub(super) struct WebConnector {
    trust: Arc<ServerTrust>,
    room: Arc<Semaphore>,
}

impl WebConnector {
    pub(super) fn new(trust: ServerTrust) -> Self {
        Self { trust: Arc::new(trust), room: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl HttpConnector for WebConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let duration = |key| options.get_config_value(&key).and_then(|text| humantime::parse_duration(&text).ok());
        let anywhere = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|said| said == "true");
        let dial = Dial {
            plain: Dialer::plain(if anywhere { Plaintext::Anywhere } else { Plaintext::Loopback }),
            trust: self.trust.clone(),
            timeout: duration(ClientConfigKey::ConnectTimeout).unwrap_or(TIMEOUT),
        };
        let client =
            Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE).build(dial);
        let timeout = duration(ClientConfigKey::Timeout).unwrap_or(TIMEOUT);
        Ok(HttpClient::new(Web { client, timeout, room: self.room.clone() }))
    }
}

#[derive(Debug)]
struct Web {
    client: Client<Dial, HttpRequestBody>,
    timeout: Duration,
    room: Arc<Semaphore>,
}

#[async_trait::async_trait]
impl HttpService for Web {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // Fails only if it is closed, which it never is.
        let _room = self.room.acquire().await.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        let call = async {
            let answer = self.client.request(request).await.map_err(|e| HttpError::new(kind(&e), e))?;
            let (parts, body) = answer.into_parts();
            // Within the limits of time and size too, and whole: a piece of an answer is no answer.
            let body = Limited::new(body, LARGEST_ANSWER).collect().await;
            let body: Bytes = body.map_err(|e| HttpError::new(HttpErrorKind::Interrupted, Broken(e)))?.to_bytes();
            Ok(HttpResponse::from_parts(parts, body.into()))
        };
        match tokio::time::timeout(self.timeout, call).await {
            Ok(answer) => answer,
            Err(_) => {
                let late = Error::new(ErrorKind::TimedOut, format!("there was no answer in {:?}", self.timeout));
                Err(HttpError::new(HttpErrorKind::Timeout, late))
            }
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the answer broke off: {0}")]
struct Broken(#[source] Box<dyn StdError + Send + Sync>);

/// What went wrong, which decides whether trying again may help.
fn kind(error: &ClientError) -> HttpErrorKind {
    let (mut io, mut hyper) = (None, None);
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(error) = next {
        io = io.or(error.downcast_ref::<Error>().map(Error::kind));
        hyper = hyper.or(error.downcast_ref::<hyper::Error>());
        next = error.source();
    }
    match io {
        // Plaintext that is not allowed, certificates that are not believed, names that are none.
        Some(ErrorKind::PermissionDenied | ErrorKind::InvalidData | ErrorKind::InvalidInput) => HttpErrorKind::Unknown,
        _ if error.is_connect() => HttpErrorKind::Connect,
        _ if hyper.is_some_and(|e| e.is_closed() || e.is_incomplete_message() || e.is_body_write_aborted()) => {
            HttpErrorKind::Request
        }
        Some(ErrorKind::TimedOut) => HttpErrorKind::Timeout,
        _ => HttpErrorKind::Interrupted,
    }
}

/// Connects as the scheme says.
#[derive(Debug, Clone)]
struct Dial {
    plain: Dialer,
    trust: Arc<ServerTrust>,
    timeout: Duration,
}

impl Dial {
    async fn connect(self, uri: Uri) -> std::io::Result<TokioIo<Wire>> {
        let mut dialer = match uri.scheme_str() {
            // Read for each connection, of which there are few.
            Some("https") => Dialer::web(&self.trust).map_err(|e| Error::new(ErrorKind::InvalidInput, e))?,
            _ => self.plain,
        };
        let late = |_| Error::new(ErrorKind::TimedOut, format!("no connection in {:?}", self.timeout));
        tokio::time::timeout(self.timeout, tower::Service::call(&mut dialer, uri)).await.map_err(late)?
    }
}

impl tower::Service<Uri> for Dial {
    type Response = TokioIo<Wire>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<TokioIo<Wire>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
