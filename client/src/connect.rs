//! Making a connection.

use std::path::PathBuf;
use std::time::Duration;

use omma_common::limits::{DEFAULT_DEADLINE_SECONDS, MAX_MESSAGE_BYTES};
use omma_common::tls::{Dialer, Plaintext, ServerTrust};
use tonic::transport::Endpoint;

use crate::call::Credentials;
use crate::error::ClientError;
use crate::{Omma, Settings};

/// Longest wait for a connection. With half of a call's time, so that a second try fits in, and its outcome can be told.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection whose peer has not answered a ping for so long is broken.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Pictures are large: the default window of 64 KiB would cost a round trip for each.
const STREAM_WINDOW: u32 = 4 << 20;

/// Settings of a connection. [`Omma::builder`] makes one.
#[derive(Clone)]
#[must_use]
pub struct Builder {
    endpoint: String,
    settings: Settings,
    trust: ServerTrust,
    api_key: Option<String>,
}

/// Without the API key.
impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (endpoint, settings, trust) = (&self.endpoint, &self.settings, &self.trust);
        f.debug_struct("Builder").field("endpoint", endpoint).field("settings", settings).field("trust", trust).finish()
    }
}

impl Builder {
    pub(crate) fn new(endpoint: impl Into<String>) -> Self {
        let settings = Settings {
            timeout: Duration::from_secs(DEFAULT_DEADLINE_SECONDS),
            tries: 8,
            max_message_bytes: MAX_MESSAGE_BYTES,
        };
        Self { endpoint: endpoint.into(), settings, trust: ServerTrust::default(), api_key: None }
    }

    /// For an `https` endpoint: believe these authorities (a PEM file), and not those of the system. A change of the
    /// file is seen by the next connection.
    pub fn ca(mut self, file: impl Into<PathBuf>) -> Self {
        self.trust.ca = Some(file.into());
        self
    }

    /// An API key, or a token of the identity provider; sent with every call. Over plain `http` everybody on the way
    /// can read it.
    pub fn api_key(mut self, key: impl Into<String>) -> Self {
        self.api_key = Some(key.into());
        self
    }

    /// Deadline of each call, retries and all; 30 s if not set. Sent to the server as `grpc-timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings.timeout = timeout;
        self
    }

    /// Most times that a call is retried; 7 if not set, 0 for never.
    pub fn retries(mut self, retries: u32) -> Self {
        self.settings.tries = retries.saturating_add(1);
        self
    }

    /// Largest message sent or received, in bytes; 32 MiB if not set, as the servers have it.
    pub fn max_message_bytes(mut self, bytes: usize) -> Self {
        self.settings.max_message_bytes = bytes;
        self
    }

    /// Connects now. Fails if the endpoint is no URI or nobody listens there.
    pub async fn connect(self) -> Result<Omma, ClientError> {
        let (endpoint, dialer) = self.endpoint()?;
        let credentials = self.credentials()?;
        let channel = endpoint.connect_with_connector(dialer).await.map_err(|e| self.explain(e.into()))?;
        Ok(Omma::over(channel, credentials, self.settings))
    }

    /// Connects with the first call. Fails only if the endpoint is no URI.
    pub fn connect_lazily(self) -> Result<Omma, ClientError> {
        let (endpoint, dialer) = self.endpoint()?;
        Ok(Omma::over(endpoint.connect_with_connector_lazy(dialer), self.credentials()?, self.settings))
    }

    fn credentials(&self) -> Result<Credentials, ClientError> {
        let header = self.api_key.as_ref().map(|key| format!("Bearer {key}").parse());
        let mut header = header.transpose().map_err(|_| ClientError::invalid("the API key has odd characters"))?;
        if let Some(header) = &mut header {
            tonic::metadata::MetadataValue::set_sensitive(header, true);
        }
        Ok(Credentials(header))
    }

    fn endpoint(&self) -> Result<(Endpoint, Dialer), ClientError> {
        let invalid = |problem: &dyn std::fmt::Display| {
            let example = "an endpoint such as http://127.0.0.1:7700 or https://omma.example:7700";
            ClientError::invalid(format!("{:?} is not {example}: {problem}", self.endpoint))
        };
        let uri: http::Uri = with_scheme(&self.endpoint).parse().map_err(|e: http::uri::InvalidUri| invalid(&e))?;
        let authority = uri.authority().filter(|a| !a.host().is_empty()).ok_or_else(|| invalid(&"it names no host"))?;
        let dialer = match uri.scheme_str() {
            Some("https") => Dialer::client(&self.trust).map_err(|e| ClientError::invalid(e.to_string()))?,
            Some("http") => Dialer::plain(Plaintext::Anywhere),
            _ => return Err(invalid(&"the scheme is neither http nor https")),
        };
        let endpoint = dialer.endpoint(authority.as_str()).map_err(|e| invalid(&e))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT.min(self.settings.timeout / 2))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 4)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
        Ok((endpoint, dialer))
    }

    fn explain(&self, error: ClientError) -> ClientError {
        let message = format!("cannot connect to {}: {}", self.endpoint, error.message());
        error.saying(message)
    }
}

/// `host:port` means `http://host:port`.
fn with_scheme(endpoint: &str) -> String {
    if endpoint.contains("://") { endpoint.to_owned() } else { format!("http://{endpoint}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn endpoints_are_checked_before_anything_is_sent() {
        for bad in ["", "http://", "http://a b", "ftp://a"] {
            let error = Omma::builder(bad).connect_lazily().err().map(|e| e.code());
            assert_eq!(error, Some(tonic::Code::InvalidArgument), "{bad:?}");
        }
        for fine in ["127.0.0.1:7700", "http://localhost:7700", "http://[::1]:7700"] {
            assert!(Omma::builder(fine).connect_lazily().is_ok(), "{fine}");
        }
    }

    #[tokio::test]
    async fn a_refused_connection_says_where_and_what_to_do() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = Omma::connect(format!("http://{free}")).await.err().unwrap();
        let text = error.to_string();
        assert!(text.contains(&free.to_string()) && text.contains("omma serve"), "{text}");
    }

    #[tokio::test]
    async fn an_unknown_name_says_so() {
        // No name server is asked for a label that is longer than 63 characters.
        let name = "o".repeat(64);
        let text = Omma::connect(format!("http://{name}:1")).await.err().unwrap().to_string();
        assert!(text.contains("cannot be resolved") && text.contains("check the server's name"), "{text}");
    }

    #[tokio::test]
    async fn a_server_without_tls_is_told_from_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let hangs_up = tokio::spawn(async move {
            loop {
                drop(listener.accept().await);
            }
        });
        let text = Omma::connect(format!("https://{address}")).await.err().unwrap().to_string();
        assert!(text.contains("no TLS") && text.contains("--ca"), "{text}");
        hangs_up.abort();
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_not_taken_for_a_missing_one() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let keeps_quiet = tokio::spawn(async move {
            let mut connections = Vec::new();
            loop {
                connections.push(listener.accept().await);
            }
        });
        let omma = Omma::builder(address.to_string()).timeout(Duration::from_millis(400)).connect().await.unwrap();
        let text = omma.list_collections().await.unwrap_err().to_string();
        assert!(text.contains("[DEADLINE_EXCEEDED]: allow more time"), "{text}");
        keeps_quiet.abort();
    }

    /// Linux drops whoever knocks while too many wait to be accepted.
    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_swallows_connections_is_told_from_a_busy_server() {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(connection) =
            tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(address)).await
        {
            waiting.push(connection.unwrap());
            assert!(waiting.len() < 100, "all are taken");
        }
        let omma = Omma::builder(address.to_string()).timeout(Duration::from_millis(400)).connect_lazily().unwrap();
        let text = omma.list_collections().await.unwrap_err().to_string();
        assert!(text.contains("check the address"), "{text}");
    }
}
