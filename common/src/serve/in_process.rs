//! Calls within one process: the services of a shard node, for the coordinator beside it, without a connection.
//!
//! A call is encoded and decoded as on the wire, and passes the layers of a server, but neither HTTP/2 nor the kernel:
//! they cost more than a small search does.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tonic::ConnectError;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};

use super::track::hold;

type Services = BoxCloneSyncService<Request<Body>, Response<Body>, Infallible>;

/// Calls at once. Callers bound themselves more tightly.
const CALLS: u32 = 1 << 16;

/// The way to the services at one address, for callers in the same process; clones are the same way.
///
/// Until [`InProcess::open`], and from [`InProcess::close`] on, calls end as if nobody listened at the address.
#[derive(Debug, Clone)]
pub struct InProcess {
    address: Arc<str>,
    services: Arc<Mutex<Option<Services>>>,
    calls: Arc<Semaphore>,
}

impl InProcess {
    /// To the services that are, or will be, at `address` (`host:port`, as callers write it).
    pub fn at(address: &str) -> Self {
        Self { address: address.into(), services: Arc::default(), calls: Arc::new(Semaphore::new(CALLS as usize)) }
    }

    /// `host:port`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Lets calls in. They are trusted: `services` must not ask for certificates.
    pub fn open<S>(&self, services: S)
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + Sync + 'static,
        S::Future: Send + 'static,
    {
        *self.services.lock() = Some(BoxCloneSyncService::new(services));
    }

    /// Lets no more calls in, and waits for those under way; no longer than `patience`.
    pub async fn close(&self, patience: Duration) {
        *self.services.lock() = None;
        let _ = tokio::time::timeout(patience, self.calls.acquire_many(CALLS)).await;
        self.calls.close();
    }
}

impl Service<Request<Body>> for InProcess {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let services = self.services.lock().clone();
        let place = self.calls.clone().try_acquire_owned();
        Box::pin(async move {
            let (Some(services), Ok(place)) = (services, place) else {
                return Err(ConnectError("the shard node of this process does not serve".into()).into());
            };
            match services.oneshot(request).await {
                Ok(response) => Ok(response.map(|body| hold(body, place))),
                Err(never) => match never {},
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use tokio::sync::oneshot;

    use super::*;

    fn request() -> Request<Body> {
        Request::new(Body::empty())
    }

    #[tokio::test]
    async fn nobody_is_there_before_it_opens_and_after_it_closes() {
        let way = InProcess::at("127.0.0.1:1");
        let refused = |error: BoxError| assert!(error.is::<ConnectError>(), "{error}");
        refused(way.clone().oneshot(request()).await.unwrap_err());
        way.open(tower::service_fn(|_| async { Ok(Response::new(Body::new("yes".to_owned()))) }));
        let answer = way.clone().oneshot(request()).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "yes");
        way.close(Duration::ZERO).await;
        refused(way.oneshot(request()).await.unwrap_err());
    }

    #[tokio::test]
    async fn what_is_under_way_is_waited_for_as_long_as_patience_lasts() {
        let way = InProcess::at("127.0.0.1:1");
        let (go, gone) = oneshot::channel::<()>();
        let gone = Arc::new(Mutex::new(Some(gone)));
        way.open(tower::service_fn(move |_| {
            let gone = gone.lock().take();
            async move {
                if let Some(gone) = gone {
                    let _ = gone.await;
                }
                Ok(Response::new(Body::new("late".to_owned())))
            }
        }));
        let call = tokio::spawn(way.clone().oneshot(request()));
        tokio::task::yield_now().await;
        let closing = tokio::spawn({
            let way = way.clone();
            async move { way.close(Duration::from_secs(60)).await }
        });
        tokio::task::yield_now().await;
        assert!(!closing.is_finished(), "a call is under way");
        go.send(()).unwrap();
        let answer = call.await.unwrap().unwrap();
        tokio::task::yield_now().await;
        assert!(!closing.is_finished(), "its answer has not been read");
        drop(answer);
        closing.await.unwrap();
    }
}
