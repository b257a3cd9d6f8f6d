//! The layer that every call of the public port passes: who is it, and may they make this call at all.

use std::future::{Ready, ready};
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::future::Either;
use omma_common::error::{ApiError, Reason};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};

use super::Access;
use super::audit::audit_refused;
use super::caller::Caller;
use super::rpcs::{Need, need};

/// Layer; what passes carries its [`Caller`] as an extension.
#[derive(Debug, Clone)]
pub(crate) struct Guarded(pub(crate) Access);

impl<S> tower::Layer<S> for Guarded {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, access: self.0.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Guard<S> {
    inner: S,
    access: Access,
}

impl<S> Guard<S> {
    /// The caller, if this call may go on.
    fn admit(&self, request: &Request<Body>) -> Result<Arc<Caller>, ApiError> {
        if !self.access.asks() {
            return self.access.caller(request.headers());
        }
        let path = request.uri().path();
        let need = need(path).ok_or_else(|| {
            ApiError::new(Reason::PermissionDenied, format!("nobody may call {path}: check the client's version"))
        })?;
        if need == Need::Nothing {
            return Ok(Arc::new(Caller::nobody()));
        }
        let caller = self.access.caller(request.headers());
        let caller = caller.inspect_err(|e| audit_refused(request, &Caller::unknown(), e))?;
        if let Need::Role(role) = need {
            caller.has(role).inspect_err(|e| audit_refused(request, &caller, e))?;
        }
        Ok(caller)
    }
}

impl<S> tower::Service<Request<Body>> for Guard<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self.admit(&request) {
            Ok(caller) => {
                request.extensions_mut().insert(caller);
                Either::Left(self.inner.call(request))
            }
            Err(error) => Either::Right(ready(Ok(error.to_status().into_http()))),
        }
    }
}
