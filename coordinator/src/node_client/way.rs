//! How a shard node is reached: over a connection, or, where it runs in this process, without one.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use omma_common::error::{ApiError, Reason};
use omma_common::serve::InProcess;
use omma_common::tls::Dialer;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Channel;
use tower::{BoxError, Service};

/// A node that does not take a connection within this is treated as gone.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Between pings, and for their answer: a node that fell silent is noticed within twice this.
const KEEPALIVE: Duration = Duration::from_secs(2);

/// The way to one shard node.
#[derive(Debug, Clone)]
pub(super) enum Way {
    /// One HTTP/2 connection, made when first used.
    Connection(Channel),
    /// Within this process.
    InProcess(InProcess),
}

impl Way {
    /// A connection to `address`, made when first used. Must be called within a tokio runtime.
    pub(super) fn connection(address: &str, dialer: &Dialer) -> Result<Self, ApiError> {
        let endpoint = dialer
            .endpoint(address)
            .map_err(|e| ApiError::new(Reason::NodeUnreachable, format!("a shard node's address is wrong: {e}")))?;
        let channel = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE)
            .keep_alive_timeout(KEEPALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(16 << 20)
            .connect_with_connector_lazy(dialer.clone());
        Ok(Self::Connection(channel))
    }
}

impl Service<Request<Body>> for Way {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Connection(channel) => channel.poll_ready(cx).map_err(Into::into),
            Self::InProcess(in_process) => in_process.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Connection(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { Ok(answer.await?) })
            }
            Self::InProcess(in_process) => in_process.call(request),
        }
    }
}
