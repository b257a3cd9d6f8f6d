//! Who may do what, over loopback gRPC with TLS, in front of doubles of shard nodes.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub, dead_code)]

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use omma_common::error::{Reason, reason_of};
use omma_common::tls::issue::Authority;
use omma_common::tls::{Dialer, Plaintext, PublicTls, ServerTrust};
use omma_coordinator::access::Role;
use omma_coordinator::access::keys::new_key;
use omma_proto::v1 as pb;
use omma_proto::v1::backup_service_client::BackupServiceClient;
use omma_proto::v1::cluster_service_client::ClusterServiceClient;
use omma_proto::v1::collection_service_client::CollectionServiceClient;
use omma_proto::v1::image_service_client::ImageServiceClient;
use omma_proto::v1::search_service_client::SearchServiceClient;
use prost::Message;
use support::Cluster;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

const DAY: Duration = Duration::from_secs(86_400);

struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("omma-access-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    fn public(&self, ca: &Authority) -> PublicTls {
        let issued = ca.issue("public", None, &["127.0.0.1".into()], SystemTime::now(), DAY).unwrap();
        PublicTls { cert: self.file("cert", &issued.cert), key: self.file("key", &issued.key) }
    }
}

type Link = InterceptedService<Channel, Box<dyn FnMut(Request<()>) -> Result<Request<()>, Status> + Send>>;

/// The coordinator, as somebody with `header` as `authorization`.
struct As<'a> {
    cluster: &'a Cluster,
    ca: Option<&'a Path>,
    header: Option<String>,
}

impl As<'_> {
    fn link(&self) -> Link {
        let dialer = match self.ca {
            Some(ca) => Dialer::client(&ServerTrust { ca: Some(ca.to_owned()) }).unwrap(),
            None => Dialer::plain(Plaintext::Loopback),
        };
        let address = self.cluster.address.strip_prefix("http://").unwrap();
        let channel = dialer.endpoint(address).unwrap().connect_with_connector_lazy(dialer);
        let header: Option<MetadataValue<_>> = self.header.as_ref().map(|h| h.parse().unwrap());
        let add = move |mut request: Request<()>| {
            if let Some(header) = &header {
                request.metadata_mut().insert("authorization", header.clone());
            }
            Ok(request)
        };
        InterceptedService::new(channel, Box::new(add))
    }

    /// Every call of the public API, about `collection`, by its name.
    async fn call(&self, rpc: &str, collection: &str) -> Result<(), Status> {
        let c = || collection.to_owned();
        let (mut collections, mut images) =
            (CollectionServiceClient::new(self.link()), ImageServiceClient::new(self.link()));
        let (mut search, mut cluster) = (SearchServiceClient::new(self.link()), ClusterServiceClient::new(self.link()));
        let mut backup = BackupServiceClient::new(self.link());
        match rpc {
            "CreateCollection" => {
                let request = pb::CreateCollectionRequest { name: c(), ..Default::default() };
                collections.create_collection(request).await.map(drop)
            }
            "GetCollection" => collections.get_collection(pb::GetCollectionRequest { name: c() }).await.map(drop),
            "ListCollections" => collections.list_collections(pb::ListCollectionsRequest::default()).await.map(drop),
            "DeleteCollection" => {
                collections.delete_collection(pb::DeleteCollectionRequest { name: c() }).await.map(drop)
            }
            "PutImages" => {
                let request = pb::PutImagesRequest { collection: c(), ..Default::default() };
                images.put_images(request).await.map(drop)
            }
            "IngestImages" => {
                let message = pb::IngestImagesRequest { collection: c(), ..Default::default() };
                let answers = images.ingest_images(tokio_stream::iter([message])).await?;
                answers.into_inner().message().await.map(drop)
            }
            "GetImage" => {
                let request = pb::GetImageRequest { collection: c(), id: "a".into(), ..Default::default() };
                images.get_image(request).await.map(drop)
            }
            "BatchGetImages" => {
                let request =
                    pb::BatchGetImagesRequest { collection: c(), ids: vec!["a".into()], ..Default::default() };
                images.batch_get_images(request).await.map(drop)
            }
            "DeleteImages" => {
                let request = pb::DeleteImagesRequest { collection: c(), ids: vec!["a".into()], ..Default::default() };
                images.delete_images(request).await.map(drop)
            }
            "Search" => search.search(pb::SearchRequest { collection: c(), ..Default::default() }).await.map(drop),
            "BatchSearch" => {
                search.batch_search(pb::BatchSearchRequest { collection: c(), ..Default::default() }).await.map(drop)
            }
            "GetClusterStatus" => cluster.get_cluster_status(pb::GetClusterStatusRequest {}).await.map(drop),
            // Of a node that there is not: what is denied is denied before anybody looks for it.
            "DrainNode" => cluster.drain_node(pb::DrainNodeRequest { node: "1:1".into() }).await.map(drop),
            "UndrainNode" => cluster.undrain_node(pb::UndrainNodeRequest { node: "1:1".into() }).await.map(drop),
            "RemoveNode" => {
                let request = pb::RemoveNodeRequest { node: "1:1".into() };
                cluster.remove_node(request).await.map(drop)
            }
            "PauseMoves" => cluster.pause_moves(pb::PauseMovesRequest::default()).await.map(drop),
            "ResumeMoves" => cluster.resume_moves(pb::ResumeMovesRequest::default()).await.map(drop),
            "ListMoves" => cluster.list_moves(pb::ListMovesRequest::default()).await.map(drop),
            // No such number of groups: refused, if it is not denied before.
            "SetGroupCount" => cluster.set_group_count(pb::SetGroupCountRequest::default()).await.map(drop),
            "BeginBackup" => {
                backup.begin_backup(pb::BeginBackupRequest { collection: c(), ..Default::default() }).await.map(drop)
            }
            "ReadBackup" => {
                backup.read_backup(pb::ReadBackupRequest { collection: c(), ..Default::default() }).await.map(drop)
            }
            "RestoreImages" => {
                let request = pb::RestoreImagesRequest { collection: c(), ..Default::default() };
                backup.restore_images(request).await.map(drop)
            }
            other => panic!("{other} is new: say here how to call it"),
        }
    }
}

/// Names of all calls of the public API, out of the descriptors.
fn rpcs() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(omma_proto::DESCRIPTORS).unwrap();
    let services = set.file.into_iter().filter(|f| f.package() == "omma.v1").flat_map(|f| f.service);
    services.flat_map(|s| s.method).map(|m| m.name().to_owned()).collect()
}

fn reason(outcome: Result<(), Status>) -> Option<Reason> {
    outcome.err().and_then(|status| reason_of(&status))
}

fn key(roles: &[Role], collections: &[&str]) -> (String, String) {
    let collections: Vec<String> = collections.iter().map(|&c| c.to_owned()).collect();
    let made = new_key("k", roles, &collections, None).unwrap();
    (format!("Bearer {}", made.key), made.line)
}

#[tokio::test]
async fn every_call_is_denied_without_credentials_role_or_collection() {
    let folder = Folder::new("denied");
    let all = [Role::Read, Role::Write, Role::Admin];
    let (here, here_line) = key(&all, &["here"]);
    let (read, read_line) = key(&[Role::Read], &["*"]);
    let (write, write_line) = key(&[Role::Write], &["*"]);
    let (admin, admin_line) = key(&[Role::Admin], &["*"]);
    let (stranger, _) = key(&all, &["*"]);
    let file = folder.file("keys", &[here_line, read_line, write_line, admin_line].join("\n"));
    let cluster = Cluster::start_with(|config| config.access.api_keys = Some(file)).await;
    let with = |header: Option<&str>| As { cluster: &cluster, ca: None, header: header.map(str::to_owned) };

    let rpcs = rpcs();
    assert!(rpcs.len() >= 12, "{rpcs:?}");
    for rpc in &rpcs {
        for bad in [
            None,
            Some(stranger.as_str()),
            Some("Bearer x"),
            Some("Basic eDp5"),
            Some("Bearer eyJhbGciOiJub25lIn0.e30."),
        ] {
            assert_eq!(reason(with(bad).call(rpc, "here").await), Some(Reason::Unauthenticated), "{rpc} {bad:?}");
        }
        // In another collection, or about the whole cluster.
        let elsewhere = reason(with(Some(&here)).call(rpc, "there").await);
        match rpc.as_str() {
            "ListCollections" => assert_eq!(elsewhere, None, "shows only what the caller may see"),
            _ => assert_eq!(elsewhere, Some(Reason::PermissionDenied), "{rpc}"),
        }
        let mut allowed = 0;
        for role in [&read, &write, &admin] {
            allowed += usize::from(reason(with(Some(role)).call(rpc, "here").await) != Some(Reason::PermissionDenied));
        }
        assert_eq!(allowed, 1, "exactly one role is for {rpc}");
    }
}

#[tokio::test]
async fn a_list_shows_the_callers_collections_only() {
    let folder = Folder::new("list");
    let (some, some_line) = key(&[Role::Read], &["b", "zz"]);
    let (all, all_line) = key(&[Role::Read, Role::Admin], &["*"]);
    let file = folder.file("keys", &format!("{some_line}\n{all_line}"));
    let cluster = Cluster::start_with(|config| config.access.api_keys = Some(file)).await;
    let with = |header: &str| As { cluster: &cluster, ca: None, header: Some(header.to_owned()) };
    for name in ["a", "b", "c"] {
        with(&all).call("CreateCollection", name).await.unwrap();
    }
    for (header, names) in [(&all, &["a", "b", "c"][..]), (&some, &["b"])] {
        let mut client = CollectionServiceClient::new(with(header).link());
        let request = pb::ListCollectionsRequest { page_size: 3, ..Default::default() };
        let answer = client.list_collections(request).await.unwrap().into_inner();
        let shown: Vec<_> = answer.collections.iter().map(|c| c.name.as_str()).collect();
        assert_eq!((shown.as_slice(), answer.next_page_token.as_str()), (names, ""));
    }
}

#[tokio::test]
async fn health_is_open_and_reflection_is_not() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;

    let folder = Folder::new("open");
    let (read, line) = key(&[Role::Read], &["a"]);
    let file = folder.file("keys", &line);
    let cluster = Cluster::start_with(|config| config.access.api_keys = Some(file)).await;
    let with = |header: Option<&str>| As { cluster: &cluster, ca: None, header: header.map(str::to_owned) };
    HealthClient::new(with(None).link()).check(HealthCheckRequest::default()).await.unwrap();
    let watch = HealthClient::new(with(None).link()).watch(HealthCheckRequest::default()).await;
    assert_eq!(watch.unwrap_err().code(), Code::Unauthenticated);
    let ask = |header| {
        let mut client = ServerReflectionClient::new(with(header).link());
        async move {
            client.server_reflection_info(tokio_stream::iter([ServerReflectionRequest::default()])).await.map(drop)
        }
    };
    assert_eq!(ask(None).await.unwrap_err().code(), Code::Unauthenticated);
    ask(Some(&read)).await.unwrap();
    // A call that the table does not have.
    let mut grpc = tonic::client::Grpc::new(with(Some(&read)).link());
    grpc.ready().await.unwrap();
    let path = tonic::codegen::http::uri::PathAndQuery::from_static("/omma.internal.v1.RaftService/Vote");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    let answer = grpc.unary(Request::new(()), path, codec).await;
    assert_eq!(answer.unwrap_err().code(), Code::PermissionDenied);
}

/// Tries until `done`, for as long as a change of a file may take.
async fn soon(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begin = Instant::now();
    while !done().await {
        assert!(begin.elapsed() < Duration::from_secs(20), "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn keys_and_certificates_change_without_a_restart() {
    let folder = Folder::new("rotate");
    let (ca, other) = (Authority::new(DAY).unwrap(), Authority::new(DAY).unwrap());
    let (ca_file, other_file) = (folder.file("ca", ca.cert()), folder.file("other", other.cert()));
    let ((old, old_line), (new, new_line)) = (key(&[Role::Admin], &["*"]), key(&[Role::Admin], &["*"]));
    let keys = folder.file("keys", &old_line);
    let public = folder.public(&ca);
    let cluster = Cluster::start_with(|config| {
        config.access.api_keys = Some(keys.clone());
        config.public_tls = Some(public);
    })
    .await;
    let status = |ca: Option<PathBuf>, header: &str| {
        let (cluster, header) = (&cluster, header.to_owned());
        async move { As { cluster, ca: ca.as_deref(), header: Some(header) }.call("GetClusterStatus", "").await }
    };
    status(Some(ca_file.clone()), &old).await.unwrap();
    let plain = status(None, &old).await.unwrap_err();
    assert_eq!(reason_of(&plain), None, "plaintext to a TLS port got an answer: {plain:?}");
    let stranger = status(Some(other_file.clone()), &old).await.unwrap_err();
    assert_eq!(reason_of(&stranger), None, "a server that the client does not believe got a request: {stranger:?}");

    folder.file("keys", &format!("{old_line}\n{new_line}"));
    soon("the new key is known", async || status(Some(ca_file.clone()), &new).await.is_ok()).await;
    status(Some(ca_file.clone()), &old).await.unwrap();
    folder.file("keys", "rubbish");
    tokio::time::sleep(Duration::from_secs(3)).await;
    status(Some(ca_file.clone()), &old).await.expect("a bad file leaves the keys as they were");
    folder.file("keys", &new_line);
    soon("the old key is gone", async || status(Some(ca_file.clone()), &old).await.is_err()).await;

    folder.public(&other);
    soon("the new certificate is shown", async || status(Some(other_file.clone()), &new).await.is_ok()).await;
    assert!(status(Some(ca_file), &new).await.is_err());
}
