//! Who may call what on a shard node's port: one table. What it does not name is denied.

use std::future::{Ready, ready};
use std::task::{Context, Poll};

use futures::future::Either;
use omma_common::error::{ApiError, Reason};
use omma_common::log_limit::{Line, LogLimit};
use omma_common::serve::ConnectInfo;
use omma_common::tls::PeerKind::{self, Coordinator, Shard};
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};

/// Lines about refused calls.
static REFUSALS: LogLimit = LogLimit::new();

const NODES: &[PeerKind] = &[Shard];
const ALL: &[PeerKind] = &[Shard, Coordinator];

/// Service, its methods one by one, and whose certificates may call each.
type Rows = &'static [(&'static str, &'static [(&'static str, &'static [PeerKind])])];

const TABLE: Rows = &[
    (
        "omma.internal.v1.RaftService",
        &[
            ("Vote", NODES),
            ("Append", NODES),
            ("StreamAppend", NODES),
            ("InstallSnapshot", NODES),
            ("TransferLeader", NODES),
        ],
    ),
    (
        "omma.internal.v1.PlacementService",
        &[
            ("ObserveNode", NODES),
            ("ChangeMembers", NODES),
            ("StepSlots", NODES),
            ("ExportSlots", NODES),
            ("ImportSlots", NODES),
            ("PurgeSlots", NODES),
        ],
    ),
    (
        "omma.internal.v1.MetadataService",
        &[("GetMetadata", ALL), ("ProposeMetadata", ALL), ("Discover", NODES), ("Join", NODES)],
    ),
    (
        "omma.internal.v1.ShardService",
        &[
            ("PutImages", ALL),
            ("DeleteImages", ALL),
            ("GetImages", ALL),
            ("SearchGroup", ALL),
            ("EncodePicture", ALL),
            ("DropCollection", ALL),
            ("GetNodeStatus", ALL),
            ("GetDigests", ALL),
            ("CutCollection", ALL),
            ("ReadCut", ALL),
            ("ImportRecords", ALL),
        ],
    ),
    ("grpc.health.v1.Health", &[("Check", ALL), ("Watch", ALL)]),
    ("grpc.reflection.v1.ServerReflection", &[("ServerReflectionInfo", ALL)]),
];

/// Whether the holder of `kind` may call `path` (`/package.Service/Method`).
fn may(kind: PeerKind, path: &str) -> bool {
    let Some((service, method)) = path.strip_prefix('/').and_then(|p| p.split_once('/')) else { return false };
    let methods = TABLE.iter().find(|(s, _)| *s == service).map_or(&[][..], |(_, methods)| methods);
    methods.iter().any(|(m, kinds)| *m == method && kinds.contains(&kind))
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
        if let Some(Line { skipped }) = REFUSALS.line() {
            tracing::warn!(
                ?address,
                holder,
                path,
                skipped,
                "refused a call that the caller's certificate does not allow"
            );
        }
        let message = format!("the caller's certificate ({holder}) does not allow {path}");
        Either::Right(ready(Ok(ApiError::new(Reason::PermissionDenied, message).to_status().into_http())))
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    /// Each method of the services of this port, as (service, method).
    fn served_methods() -> Vec<(String, String)> {
        let sets = [
            omma_proto::DESCRIPTORS,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        ];
        let files = sets.iter().flat_map(|set| FileDescriptorSet::decode(*set).unwrap().file);
        let mut methods = Vec::new();
        for file in files.filter(|f| f.package() != "omma.v1") {
            for service in &file.service {
                let name = format!("{}.{}", file.package(), service.name());
                methods.extend(service.method.iter().map(|m| (name.clone(), m.name().to_owned())));
            }
        }
        methods
    }

    #[test]
    fn every_method_has_a_row_and_every_row_a_method() {
        let mut methods = served_methods();
        let rows = TABLE.iter().flat_map(|(service, rows)| rows.iter().map(move |(method, _)| (service, method)));
        let mut rows: Vec<_> = rows.map(|(service, method)| ((*service).to_owned(), (*method).to_owned())).collect();
        methods.sort();
        rows.sort();
        assert_eq!(rows, methods);
    }

    #[test]
    fn a_coordinator_is_no_member_of_groups() {
        for (service, method) in served_methods() {
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
