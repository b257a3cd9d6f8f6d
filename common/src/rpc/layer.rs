//! The layer itself.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use prost::Message;
use prost_types::FileDescriptorSet;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::field::Empty;
use tracing::{Instrument, Span};

use super::body::Counted;
use super::call::{Call, Stats};
use crate::telemetry;

/// Which calls are traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traces {
    /// All: those that come without a trace begin one.
    Begin,
    /// Those that come with a trace.
    Continue,
}

/// Counts, times and traces every call of a server. The outermost layer.
#[derive(Debug, Clone)]
pub struct RpcLayer {
    traces: Traces,
    known: Arc<HashMap<String, OnceLock<Arc<Stats>>>>,
    /// Health, reflection, and calls that do not exist: one label for all.
    other: Arc<Stats>,
}

impl RpcLayer {
    /// For the calls of Omma's protocol.
    pub fn new(traces: Traces) -> Self {
        super::init();
        // The descriptors are compiled in; without them, every call is an other.
        let files = FileDescriptorSet::decode(omma_proto::DESCRIPTORS).unwrap_or_default();
        let mut known = HashMap::new();
        for file in files.file {
            let package = file.package().to_owned();
            for service in &file.service {
                let rpcs = service.method.iter().map(|m| format!("{package}.{}/{}", service.name(), m.name()));
                known.extend(rpcs.map(|rpc| (rpc, OnceLock::new())));
            }
        }
        Self { traces, known: Arc::new(known), other: Arc::new(Stats::new("other")) }
    }

    fn begin(&self, path: &str, headers: &HeaderMap) -> Call {
        match self.known.get_key_value(path.trim_start_matches('/')) {
            None => Call::begin(self.other.clone(), Span::none()),
            Some((rpc, stats)) => {
                let stats = stats.get_or_init(|| Arc::new(Stats::new(rpc)));
                Call::begin(stats.clone(), self.span(rpc, headers))
            }
        }
    }

    fn span(&self, rpc: &str, headers: &HeaderMap) -> Span {
        if self.traces == Traces::Continue && !telemetry::is_traced(headers) {
            return Span::none();
        }
        let span =
            tracing::info_span!("rpc", otel.name = rpc, otel.kind = "server", otel.status_code = Empty, reason = Empty);
        telemetry::follow(&span, headers);
        span
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = RpcService<S>;

    fn layer(&self, inner: S) -> RpcService<S> {
        RpcService { inner, layer: self.clone() }
    }
}

/// What [`RpcLayer`] makes of a service.
#[derive(Debug, Clone)]
pub struct RpcService<S> {
    inner: S,
    layer: RpcLayer,
}

impl<S, R> Service<Request<R>> for RpcService<S>
where
    S: Service<Request<R>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<R>) -> Self::Future {
        let mut call = self.layer.begin(request.uri().path(), request.headers());
        let span = call.span.clone();
        let answer = span.in_scope(|| self.inner.call(request));
        let counted = async move {
            let response = match answer.await {
                Ok(response) => response,
                Err(error) => {
                    call.end(Some(&Status::unknown("")));
                    return Err(error);
                }
            };
            // An error without an answer is all in the headers.
            if call.end_with(response.headers()) {
                return Ok(response);
            }
            Ok(response.map(|body| Body::new(Counted::new(body, call))))
        };
        Box::pin(counted.instrument(span))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Empty as NoBody};
    use tower::ServiceExt;

    use super::*;
    use crate::error::{ApiError, Reason};

    const RPC: &str = "omma.v1.SearchService/Search";

    fn request(rpc: &str) -> Request<NoBody<bytes::Bytes>> {
        Request::builder().uri(format!("http://x/{rpc}")).body(NoBody::new()).unwrap()
    }

    fn count(rpc: &str, code: &str) -> u64 {
        super::super::REQUESTS.with(&[rpc, code]).get()
    }

    #[tokio::test]
    async fn each_call_is_counted_once_however_it_ends() {
        let layer = RpcLayer::new(Traces::Begin);
        let answer = |request: Request<NoBody<bytes::Bytes>>| async move {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let good = NoBody::new().with_trailers(async move { Some(Ok(trailers)) });
            Ok::<_, std::convert::Infallible>(match request.uri().path() {
                "/omma.v1.SearchService/Search" => Response::new(Body::new(good)),
                _ => ApiError::new(Reason::Overloaded, "busy").to_status().into_http(),
            })
        };
        let service = layer.layer(tower::service_fn(answer));
        let before = (count(RPC, "OK"), count(RPC, "CANCELLED"));
        let response = service.clone().oneshot(request(RPC)).await.unwrap();
        assert_eq!(layer.known[RPC].get().unwrap().in_flight(), 1);
        response.into_body().collect().await.unwrap();
        // One that nobody reads to its end.
        drop(service.clone().oneshot(request(RPC)).await.unwrap());
        assert_eq!((count(RPC, "OK"), count(RPC, "CANCELLED")), (before.0 + 1, before.1 + 1));
        assert_eq!(layer.known[RPC].get().unwrap().in_flight(), 0);

        let refused = "omma.v1.ImageService/GetImage";
        service.clone().oneshot(request(refused)).await.unwrap();
        assert_eq!(count(refused, "RESOURCE_EXHAUSTED"), 1);
        assert_eq!(super::super::ERRORS.with(&[refused, "OVERLOADED"]).get(), 1);
        service.oneshot(request("no.such.Service/Call")).await.unwrap();
        assert_eq!(count("other", "RESOURCE_EXHAUSTED"), 1);
    }
}
