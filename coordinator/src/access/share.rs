//! What each client may use of the coordinator: requests at once, requests a second, and time for each.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use omma_common::error::{ApiError, Reason};
use omma_common::serve::{ConnectInfo, Whose, hold};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};

use super::audit::audit_refused;
use super::caller::Caller;
use super::client::Client;
use crate::metrics::{REFUSED_CLIENT_RATE, REFUSED_CLIENT_REQUESTS};

/// Clients that are remembered; those that have used nothing lately are forgotten beyond.
const REMEMBERED: usize = 4096;

/// Bounds for one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    /// Requests at once; a stream counts as one.
    pub(crate) requests: usize,
    /// Requests a second, on average over a second; a stream counts as one.
    pub(crate) rate: u32,
    /// Until an answer has to begin: a request whose message trickles in is given up.
    pub(crate) time: Duration,
}

#[derive(Debug)]
struct Usage {
    requests: usize,
    /// Requests that may begin now.
    left: f64,
    at: Instant,
}

/// All clients' usage.
#[derive(Debug)]
pub(crate) struct Shares {
    each: Share,
    clients: Mutex<HashMap<Client, Usage>>,
}

/// A request that counts for its client until it is dropped.
#[derive(Debug)]
struct Counted {
    shares: Arc<Shares>,
    client: Client,
}

impl Drop for Counted {
    fn drop(&mut self) {
        if let Some(usage) = self.shares.clients.lock().get_mut(&self.client) {
            usage.requests -= 1;
        }
    }
}

impl Shares {
    pub(crate) fn new(each: Share) -> Arc<Self> {
        Arc::new(Self { each, clients: Mutex::default() })
    }

    /// Counts a request, or refuses it.
    fn begin(self: &Arc<Self>, client: Client, now: Instant) -> Result<Counted, ApiError> {
        let rate = f64::from(self.each.rate);
        let mut clients = self.clients.lock();
        if clients.len() >= REMEMBERED {
            clients.retain(|_, u| u.requests > 0 || now.saturating_duration_since(u.at) < Duration::from_secs(1));
        }
        let usage = clients.entry(client).or_insert(Usage { requests: 0, left: rate, at: now });
        usage.left = (usage.left + now.saturating_duration_since(usage.at).as_secs_f64() * rate).min(rate);
        usage.at = now;
        if usage.requests >= self.each.requests {
            REFUSED_CLIENT_REQUESTS.inc();
            let text = format!("this client has {} requests under way, as many as it may", usage.requests);
            return Err(ApiError::new(Reason::RateLimited, text).over("max-requests-per-client", self.each.requests));
        }
        if usage.left < 1.0 {
            REFUSED_CLIENT_RATE.inc();
            let text = format!("this client sends more than {} requests a second", self.each.rate);
            return Err(ApiError::new(Reason::RateLimited, text).over("max-rate-per-client", self.each.rate));
        }
        usage.left -= 1.0;
        usage.requests += 1;
        Ok(Counted { shares: self.clone(), client })
    }
}

/// Layer; behind [`super::Guarded`], which says who calls. What passes carries its client's number as an extension.
#[derive(Debug, Clone)]
pub(crate) struct Shared(pub(crate) Arc<Shares>);

impl<S> tower::Layer<S> for Shared {
    type Service = Sharing<S>;

    fn layer(&self, inner: S) -> Sharing<S> {
        Sharing { inner, shares: self.0.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Sharing<S> {
    inner: S,
    shares: Arc<Shares>,
}

impl<S> tower::Service<Request<Body>> for Sharing<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let extensions = request.extensions();
        let address = extensions.get::<ConnectInfo>().map(|info| info.address);
        let client = extensions.get::<Arc<Caller>>().map_or(Client(0), |caller| Client::of(caller, address));
        let counted = match self.shares.begin(client, Instant::now()) {
            Ok(counted) => counted,
            Err(error) => {
                if let Some(caller) = extensions.get::<Arc<Caller>>() {
                    audit_refused(&request, caller, &error);
                }
                return Box::pin(async move { Ok(error.to_status().into_http()) });
            }
        };
        request.extensions_mut().insert(Whose(client.0));
        let (answer, time) = (self.inner.call(request), self.shares.each.time);
        Box::pin(async move {
            match tokio::time::timeout(time, answer).await {
                Ok(answer) => Ok(answer?.map(|body| hold(body, counted))),
                Err(_) => {
                    let text = format!("the request was not there and answered within {time:?}");
                    let error = ApiError::new(Reason::DeadlineExceeded, text);
                    Ok(error.over("max-request-seconds", time.as_secs()).to_status().into_http())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(outcome: &Result<Counted, ApiError>) -> Option<&str> {
        outcome.as_ref().err().and_then(|e| e.metadata.first().map(|(_, name)| name.as_str()))
    }

    #[test]
    fn each_client_has_its_share_and_no_more() {
        let shares = Shares::new(Share { requests: 2, rate: 5, time: Duration::from_secs(5) });
        let (one, two, mut now) = (Client(1), Client(2), Instant::now());
        let counted = || (REFUSED_CLIENT_REQUESTS.get(), REFUSED_CLIENT_RATE.get());
        let before = counted();
        let held = [shares.begin(one, now).unwrap(), shares.begin(one, now).unwrap()];
        assert_eq!(reason(&shares.begin(one, now)), Some("max-requests-per-client"));
        assert!(shares.begin(two, now).is_ok(), "another client's share is untouched");
        drop(held);
        for _ in 0..3 {
            shares.begin(one, now).unwrap();
        }
        assert_eq!(reason(&shares.begin(one, now)), Some("max-rate-per-client"));
        now += Duration::from_millis(400);
        assert!(shares.begin(one, now).is_ok() && shares.begin(one, now).is_ok());
        assert!(shares.begin(one, now).is_err());
        assert_eq!(counted(), (before.0 + 1, before.1 + 2), "each refusal is counted");
        now += Duration::from_secs(60);
        let after = (0..9).filter(|_| shares.begin(one, now).is_ok()).count();
        assert_eq!(after, 5, "what was not used is not saved up for longer than a second");
    }

    #[test]
    fn clients_that_are_gone_are_forgotten() {
        let shares = Shares::new(Share { requests: 2, rate: 5, time: Duration::from_secs(5) });
        let mut now = Instant::now();
        let busy = shares.begin(Client(0), now).unwrap();
        for client in 1..REMEMBERED as u64 {
            shares.begin(Client(client), now).unwrap();
        }
        now += Duration::from_secs(2);
        shares.begin(Client(u64::MAX), now).unwrap();
        assert_eq!(shares.clients.lock().len(), 2);
        drop(busy);
    }
}
