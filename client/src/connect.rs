//! Making a connection.

use std::time::Duration;

use omma_common::limits::{DEFAULT_DEADLINE_SECONDS, MAX_MESSAGE_BYTES};
use tonic::transport::{Channel, Endpoint};

use crate::error::ClientError;
use crate::{Omma, Settings};

/// Longest wait for a TCP connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection whose peer has not answered a ping for so long is broken.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Pictures are large: the default window of 64 KiB would cost a round trip for each.
const STREAM_WINDOW: u32 = 4 << 20;

/// Settings of a connection. [`Omma::builder`] makes one.
#[derive(Debug, Clone)]
#[must_use]
pub struct Builder {
    endpoint: String,
    settings: Settings,
}

impl Builder {
    pub(crate) fn new(endpoint: impl Into<String>) -> Self {
        let settings = Settings {
            timeout: Duration::from_secs(DEFAULT_DEADLINE_SECONDS),
            tries: 8,
            max_message_bytes: MAX_MESSAGE_BYTES,
        };
        Self { endpoint: endpoint.into(), settings }
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
        let endpoint = self.endpoint()?;
        let channel = endpoint.connect().await.map_err(|e| self.explain(e.into()))?;
        Ok(Omma::over(channel, self.settings))
    }

    /// Connects with the first call. Fails only if the endpoint is no URI.
    pub fn connect_lazily(self) -> Result<Omma, ClientError> {
        let channel: Channel = self.endpoint()?.connect_lazy();
        Ok(Omma::over(channel, self.settings))
    }

    fn endpoint(&self) -> Result<Endpoint, ClientError> {
        let uri = with_scheme(&self.endpoint);
        let endpoint = Endpoint::from_shared(uri).map_err(|e| {
            ClientError::invalid(format!("{:?} is no endpoint such as http://127.0.0.1:7700: {e}", self.endpoint))
        })?;
        if endpoint.uri().host().is_none() {
            return Err(ClientError::invalid(format!(
                "{:?} is no endpoint such as http://127.0.0.1:7700: it names no host",
                self.endpoint
            )));
        }
        Ok(endpoint
            .connect_timeout(CONNECT_TIMEOUT.min(self.settings.timeout))
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 4)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT))
    }

    fn explain(&self, error: ClientError) -> ClientError {
        ClientError::transport(format!("cannot connect to {}: {}", self.endpoint, error.message()))
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
        for bad in ["", "http://", "http://a b"] {
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
}
