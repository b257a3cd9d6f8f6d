//! The audit log says who did what to which collection and how it ended, and nothing of what was in it.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, unreachable_pub, dead_code)]

mod support;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use omma_common::error::{Reason, reason_of};
use omma_coordinator::access::Role;
use omma_coordinator::access::keys::new_key;
use omma_proto::v1 as pb;
use omma_proto::v1::collection_service_client::CollectionServiceClient;
use omma_proto::v1::image_service_client::ImageServiceClient;
use omma_proto::v1::query::Target;
use omma_proto::v1::search_service_client::SearchServiceClient;
use support::Cluster;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tracing::field::{Field, Visit};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// Calls of one client a second.
const RATE: u32 = 60;
/// In the picture, the image's id and its attributes.
const SECRET: &str = "nobody-should-read-this";

type Line = BTreeMap<String, String>;

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

/// Keeps the events of the target `audit`, with their level.
struct Collect;

struct Fields(Line);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").trim_matches('"').to_owned());
    }
}

impl<S: tracing::Subscriber> Layer<S> for Collect {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "audit" {
            let mut fields = Fields([("level".to_owned(), event.metadata().level().to_string())].into());
            event.record(&mut fields);
            LINES.lock().unwrap().push(fields.0);
        }
    }
}

/// The lines since the last look.
fn take() -> Vec<Line> {
    std::mem::take(&mut *LINES.lock().unwrap())
}

/// The same, as `level who rpc collection outcome`. A stream's last one comes a little later.
async fn lines(many: usize) -> Vec<String> {
    for _ in 0..200 {
        if LINES.lock().unwrap().len() >= many {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lines = take();
    let text = |line: Line| {
        assert!(line["address"].starts_with("127.0.0.1:"), "{line:?}");
        assert!(line.values().all(|value| !value.contains(SECRET) && value.len() < 100), "{line:?}");
        assert_eq!(line.len(), 6, "{line:?}");
        ["level", "who", "rpc", "collection", "outcome"].map(|field| line[field].clone()).join(" ")
    };
    lines.into_iter().map(text).collect()
}

/// The same, of images that are stored in any order.
async fn sorted_lines(many: usize) -> Vec<String> {
    let mut lines = lines(many).await;
    lines.sort();
    lines
}

fn as_caller<T>(message: T, header: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(header) = header {
        request.metadata_mut().insert("authorization", header.parse().unwrap());
    }
    request
}

fn image(content: pb::new_image::Content) -> pb::NewImage {
    let value = pb::AttributeValue { kind: Some(pb::attribute_value::Kind::StringValue(SECRET.into())) };
    pb::NewImage { id: SECRET.into(), content: Some(content), attributes: [(SECRET.to_owned(), value)].into() }
}

fn put(collection: &str) -> pb::PutImagesRequest {
    let picture = pb::new_image::Content::Picture(SECRET.as_bytes().to_vec().into());
    pb::PutImagesRequest { collection: collection.into(), images: vec![image(picture)], ..Default::default() }
}

/// A stream whose messages are for these collections.
async fn ingest(channel: &Channel, header: &str, collections: &[&str]) -> Option<Reason> {
    let message = |(sequence, collection): (usize, &&str)| {
        let embedding = pb::new_image::Content::Embedding(pb::Embedding { values: vec![1.0, 0.0, 0.0, 0.0] });
        pb::IngestImagesRequest {
            collection: (*collection).to_owned(),
            sequence: sequence as u64,
            image: Some(image(embedding)),
            ..Default::default()
        }
    };
    let messages: Vec<_> = collections.iter().enumerate().map(message).collect();
    let request = as_caller(tokio_stream::iter(messages), Some(header));
    let mut answers = ImageServiceClient::new(channel.clone()).ingest_images(request).await.unwrap().into_inner();
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(status) => return reason_of(&status),
        }
    }
}

#[tokio::test]
async fn each_deed_is_one_line_without_its_content() {
    let subscriber = tracing_subscriber::registry().with(Collect);
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let some: Vec<String> = ["here", "there"].map(str::to_owned).into();
    let key = new_key("ann", &[Role::Read, Role::Write, Role::Admin], &some, None).unwrap();
    let file = std::env::temp_dir().join(format!("omma-audit-{}", std::process::id()));
    let everywhere = new_key("bob", &[Role::Write], &["*".to_owned()], None).unwrap();
    std::fs::write(&file, format!("{}\n{}\n", key.line, everywhere.line)).unwrap();
    let free = Some(format!("Bearer {}", everywhere.key));
    let (header, keys) = (format!("Bearer {}", key.key), file.clone());
    let cluster = Cluster::start_with(|config| {
        config.access.api_keys = Some(keys);
        config.limits.rate_per_client = RATE;
    })
    .await;
    let channel = Endpoint::from_shared(cluster.address.clone()).unwrap().connect_lazy();
    let (mut images, mut searches) =
        (ImageServiceClient::new(channel.clone()), SearchServiceClient::new(channel.clone()));

    for name in ["here", "there"] {
        let request = pb::CreateCollectionRequest { name: name.into(), ..Default::default() };
        let request = as_caller(request, Some(&header));
        CollectionServiceClient::new(channel.clone()).create_collection(request).await.unwrap();
    }
    images.put_images(as_caller(put("here"), Some(&header))).await.unwrap();
    let query = pb::Query { target: Some(Target::ImageId(SECRET.into())), k: 1, ..Default::default() };
    let search = pb::SearchRequest { collection: "here".into(), query: Some(query), ..Default::default() };
    searches.search(as_caller(search, Some(&header))).await.unwrap();
    assert_eq!(
        lines(4).await,
        [
            "INFO key:ann CreateCollection here OK",
            "INFO key:ann CreateCollection there OK",
            "INFO key:ann PutImages here OK",
            "DEBUG key:ann Search here OK",
        ]
    );

    // Refusals are told loudly, with as much of the name as one can have.
    images.put_images(as_caller(put("elsewhere"), Some(&header))).await.unwrap_err();
    images.put_images(as_caller(put(&"x".repeat(1 << 20)), Some(&header))).await.unwrap_err();
    images.put_images(as_caller(put("here"), None)).await.unwrap_err();
    let search = pb::SearchRequest { collection: "elsewhere".into(), ..Default::default() };
    searches.search(as_caller(search, Some(&header))).await.unwrap_err();
    assert_eq!(
        lines(4).await,
        [
            "INFO key:ann PutImages elsewhere PERMISSION_DENIED".to_owned(),
            format!("INFO key:ann PutImages {} PERMISSION_DENIED", "x".repeat(64)),
            "INFO unknown PutImages  UNAUTHENTICATED".to_owned(),
            "INFO key:ann Search elsewhere PERMISSION_DENIED".to_owned(),
        ]
    );

    // A stream is a line for each collection in which it stored something, and one for an end that is none of these.
    assert_eq!(ingest(&channel, &header, &["here", "", "here", "there"]).await, None);
    let told = ["here", "there"].map(|name| format!("INFO key:ann IngestImages {name} OK"));
    assert_eq!(sorted_lines(2).await, told);
    assert_eq!(ingest(&channel, &header, &["here", "elsewhere"]).await, Some(Reason::PermissionDenied));
    assert_eq!(
        lines(2).await,
        ["INFO key:ann IngestImages here OK", "INFO key:ann IngestImages elsewhere PERMISSION_DENIED"]
    );
    let to_and_fro: Vec<_> = ["here", "there"].into_iter().cycle().take(100).collect();
    assert_eq!(ingest(&channel, &header, &to_and_fro).await, None);
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(sorted_lines(2).await, told);
    let unknown = free.as_deref().unwrap();
    let names: Vec<String> = (0..30).map(|n| format!("nothing-{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(ingest(&channel, unknown, &names).await, Some(Reason::CollectionNotFound));
    let told = lines(1).await;
    assert!(matches!(&told[..], [end] if end.ends_with("COLLECTION_NOT_FOUND")), "{told:?}");
    failures_are_bounded(&channel, &header).await;
    refusals_are_told_and_bounded(&mut searches, &header).await;
    let _ = std::fs::remove_file(file);
}

/// Calls that change things, and fail.
async fn failures_are_bounded(channel: &Channel, header: &str) {
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let begun = Instant::now();
    for _ in 0..RATE {
        let request = pb::CreateCollectionRequest { name: "here".into(), ..Default::default() };
        let request = as_caller(request, Some(header));
        CollectionServiceClient::new(channel.clone()).create_collection(request).await.unwrap_err();
    }
    let most = 21 + (20.0 * begun.elapsed().as_secs_f64()) as usize;
    let told = take().iter().filter(|line| line["outcome"] == "COLLECTION_EXISTS").count();
    assert!((10..=most).contains(&told), "{told} lines where {most} may be");
    tokio::time::sleep(Duration::from_millis(1100)).await;
}

/// A known caller, too, is refused more often than the log has lines: what it may not read, and then whatever it asks.
async fn refusals_are_told_and_bounded(searches: &mut SearchServiceClient<Channel>, header: &str) {
    let begun = Instant::now();
    for _ in 0..RATE * 5 {
        let search = pb::SearchRequest { collection: "elsewhere".into(), ..Default::default() };
        searches.search(as_caller(search, Some(header))).await.unwrap_err();
    }
    let most = 21 + (20.0 * begun.elapsed().as_secs_f64()) as usize;
    let lines = take();
    for outcome in ["PERMISSION_DENIED", "RATE_LIMITED"] {
        let told = |line: &&Line| {
            line["outcome"] == outcome
                && (&*line["rpc"], &*line["who"], &*line["level"]) == ("Search", "key:ann", "INFO")
        };
        let told = lines.iter().filter(told).count();
        assert!((10..=most).contains(&told), "{told} lines of {outcome} where {most} may be");
    }
    // Those that got no line are counted by the next that gets one.
    tokio::time::sleep(Duration::from_millis(200)).await;
    for _ in 0..RATE {
        let search = pb::SearchRequest { collection: "elsewhere".into(), ..Default::default() };
        searches.search(as_caller(search, Some(header))).await.unwrap_err();
    }
    let skipped: u64 = take().iter().filter_map(|line| line.get("skipped")?.parse::<u64>().ok()).sum();
    assert!(skipped > u64::from(RATE), "{skipped}");
}
