//! Who may call what on a shard node's port: one table. What it does not name is denied.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use omma_common::error::{ApiError, Reason};
use omma_common::serve::ConnectInfo;
use omma_common::tls::PeerKind::{self, Coordinator, Shard};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};

/// Service, method (`*`: all of it), and whose certificates may call it.
const TABLE: &[(&str, &str, &[PeerKind])] = &[
    ("omma.internal.v1.RaftService", "*", &[Shard]),
    ("omma.internal.v1.PlacementService", "*", &[Shard]),
    ("omma.internal.v1.MetadataService", "GetMetadata", &[Shard, Coordinator]),
    ("omma.internal.v1.MetadataService", "ProposeMetadata", &[Shard, Coordinator]),
    ("omma.internal.v1.MetadataService", "Discover", &[Shard]),
    ("omma.internal.v1.MetadataService", "Join", &[Shard]),
    ("omma.internal.v1.ShardService", "*", &[Shard, Coordinator]),
    ("grpc.health.v1.Health", "*", &[Shard, Coordinator]),
    ("grpc.reflection.v1.ServerReflection", "*", &[Shard, Coordinator]),
];

/// Whether the holder of `kind` may call `path` (`/package.Service/Method`).
fn may(kind: PeerKind, path: &str) -> bool {
    let Some((service, method)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else { return false };
    let row = TABLE.iter().find(|(s, m, _)| *s == service && (*m == method || *m == "*"));
    row.is_some_and(|(_, _, kinds)| kinds.contains(&kind))
}

/// Layer that lets a call pass if the caller's certificate allows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ByKind {
    /// Whether callers have certificates: not where the port is plaintext.
    pub(super) ask: bool,
}

impl<S> tower::Layer<S> for ByKind {
    type Service = Checked<S>;

    fn layer(&self, inner: S) -> Checked<S> {
        Checked { inner, ask: self.ask }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Checked<S> {
    inner: S,
    ask: bool,
}

impl<S> tower::Service<Request<Body>> for Checked<S>
where
    S: tower::Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<Body>, S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (path, info) = (request.uri().path(), request.extensions().get::<ConnectInfo>());
        let kind = info.and_then(|info| info.kind);
        if !self.ask || kind.is_some_and(|kind| may(kind, path)) {
            return Either::Left(self.inner.call(request));
        }
        let (address, holder) = (info.map(|info| info.address), kind.map_or("no peer's", PeerKind::uri));
        tracing::warn!(?address, holder, path, "refused a call that the caller's certificate does not allow");
        let message = format!("the caller's certificate ({holder}) does not allow {path}");
        Either::Right(ready(Ok(ApiError::new(Reason::PermissionDenied, message).to_status().into_http())))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Each method of the services between nodes, as (service, method).
    fn internal_methods() -> Vec<(String, String)> {
        let set = FileDescriptorSet::decode(omma_proto::DESCRIPTORS).unwrap();
        let files = set.file.iter().filter(|f| f.package() == "omma.internal.v1");
        let services = files.flat_map(|f| f.service.iter().map(move |s| (format!("{}.{}", f.package(), s.name()), s)));
        services.flat_map(|(name, s)| s.method.iter().map(move |m| (name.clone(), m.name().to_owned()))).collect()
    }

    #[test]
    fn every_method_has_a_row_and_every_row_a_method() {
        let methods = internal_methods();
        assert!(methods.len() >= 16, "{methods:?}");
        for (service, method) in &methods {
            assert!(may(Shard, &format!("/{service}/{method}")), "no row for {service}/{method}");
        }
        for (service, method, _) in TABLE.iter().filter(|(s, ..)| s.starts_with("omma.")) {
            assert!(methods.iter().any(|(s, m)| s == service && (m == method || *method == "*")), "{service}/{method}");
        }
    }

    #[test]
    fn a_coordinator_is_no_member_of_groups() {
        for (service, method) in internal_methods() {
            let of_groups = ["RaftService", "PlacementService"].iter().any(|s| service.ends_with(s));
            let member = of_groups || ["Discover", "Join"].contains(&method.as_str());
            assert_eq!(may(Coordinator, &format!("/{service}/{method}")), !member, "{service}/{method}");
        }
    }

    #[test]
    fn what_is_not_named_is_denied() {
        for path in [
            "",
            "/",
            "omma.internal.v1.RaftService/Vote",
            "/omma.internal.v1.New/Do",
            "/omma.v1.ImageService/PutImages",
        ] {
            assert!(!may(Shard, path) && !may(Coordinator, path), "{path}");
        }
    }
}
