//! What must be refused: each with its code, reason and field, and nothing of it stored.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use omma_common::error::Reason;
use omma_common::limits::{DEFAULT_MAX_PICTURE_BYTES, MAX_MESSAGE_BYTES};
use omma_integration_tests::client::{Client, by_vector, ids, picture_image, request_id, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::pictures::{draw, jpeg, lying_png, png};
use omma_integration_tests::refusal::Refusal;
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::query::Target;
use omma_proto::v1::*;
use tokio::sync::OnceCell;
use tokio_stream::StreamExt;
use tonic::{Code, Status};

const PATIENCE: Duration = Duration::from_secs(30);

async fn cluster() -> Result<&'static Cluster> {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER.get_or_try_init(|| Cluster::start(ClusterOptions::named("bad_input"))).await
}

/// An image that must be refused, why, and which of its fields is to blame ("" for the image itself).
struct Bad {
    image: NewImage,
    reason: Reason,
    field: &'static str,
}

fn bad(image: NewImage, reason: Reason, field: &'static str) -> Bad {
    Bad { image, reason, field }
}

fn with_attributes(attributes: impl IntoIterator<Item = (String, Option<Kind>)>) -> NewImage {
    let attributes = attributes.into_iter().map(|(k, kind)| (k, AttributeValue { kind })).collect::<BTreeMap<_, _>>();
    NewImage { attributes, ..vector_image("bad", vec![1.0, 0.0, 0.0, 0.0]) }
}

/// For a collection of dimension 4.
fn bad_images() -> Vec<Bad> {
    use Reason::{InvalidArgument, InvalidEmbedding};
    let vector = |values: &[f32]| vector_image("bad", values.to_vec());
    let id = |id: &str| vector_image(id, vec![1.0, 0.0, 0.0, 0.0]);
    let one = |name: &str, kind| with_attributes([(name.to_owned(), kind)]);
    let mut rows = vec![
        bad(vector(&[]), InvalidEmbedding, ".embedding"),
        bad(vector(&[1.0, 0.0, 0.0]), InvalidEmbedding, ".embedding"),
        bad(vector(&[1.0, 0.0, 0.0, 0.0, 0.0]), InvalidEmbedding, ".embedding"),
        bad(vector(&[f32::NAN, 0.0, 0.0, 1.0]), InvalidEmbedding, ".embedding"),
        bad(vector(&[f32::INFINITY, 0.0, 0.0, 1.0]), InvalidEmbedding, ".embedding"),
        bad(vector(&[1.0, f32::NEG_INFINITY, 0.0, 1.0]), InvalidEmbedding, ".embedding"),
        bad(vector(&[0.0; 4]), InvalidEmbedding, ".embedding"),
        bad(NewImage { content: None, ..vector(&[]) }, InvalidArgument, ""),
        bad(id(""), InvalidArgument, ".id"),
        bad(id(&"x".repeat(257)), InvalidArgument, ".id"),
        bad(id(&"é".repeat(129)), InvalidArgument, ".id"),
        bad(one("", Some(Kind::BoolValue(true))), InvalidArgument, ".attributes"),
        bad(one("nothing", None), InvalidArgument, ".attributes"),
        bad(one("nan", Some(Kind::FloatValue(f64::NAN))), InvalidArgument, ".attributes"),
        bad(one("large", Some(Kind::StringValue("x".repeat(65 << 10)))), InvalidArgument, ".attributes"),
        bad(
            with_attributes((0..65).map(|i| (format!("a{i}"), Some(Kind::BoolValue(true))))),
            InvalidArgument,
            ".attributes",
        ),
    ];
    rows.extend(["a\0b", "a\nb", "\u{7f}", "\u{85}"].map(|odd| bad(id(odd), InvalidArgument, ".id")));
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_image_is_refused_and_nothing_of_it_is_stored() -> Result<()> {
    let client = cluster().await?.client()?;
    client.create("bad-images", Some(4)).await?;
    let good = || vector_image("good", vec![0.0, 1.0, 0.0, 0.0]);
    client.store("bad-images", vec![good()], PATIENCE).await?;
    for row in bad_images() {
        let what = format!("{:?}", row.image);
        let what = &what[..what.floor_char_boundary(200)];
        // In one call with a new good image: the call fails as a whole, before anything is written.
        let beside = vector_image("beside", vec![0.0, 0.0, 1.0, 0.0]);
        let outcome = client.put("bad-images", vec![beside, row.image.clone()]).await;
        let refusal = Refusal::of_call(outcome).with_context(|| what.to_owned())?;
        refusal.is(row.reason, &format!("images[1]{}", row.field)).with_context(|| what.to_owned())?;
        ensure!(!refusal.retry, "a retry cannot help: {refusal:?}");
        // In a stream: it fails alone, and the stream goes on.
        let (error, next) = in_stream(&client, "bad-images", row.image, good()).await?;
        Refusal::of_part(error.as_ref())?.is(row.reason, &format!("image{}", row.field)).context(what.to_owned())?;
        ensure!(next.error.is_none_or(|e| e.code == 0), "{what}: the next image failed too");
    }
    ensure!(client.count("bad-images").await? == 1);
    for id in ["bad", "beside"] {
        ensure!(client.get("bad-images", id).await?.is_none(), "{id} is stored");
    }
    Ok(())
}

/// Sends `bad`, then `good`; returns the error of the first and the result of the second.
async fn in_stream(
    client: &Client,
    collection: &str,
    bad: NewImage,
    good: NewImage,
) -> Result<(Option<omma_proto::RpcStatus>, PutResult)> {
    let collection = collection.to_owned();
    let requests = [bad, good].into_iter().enumerate().map(move |(i, image)| IngestImagesRequest {
        collection: collection.clone(),
        sequence: i as u64,
        image: Some(image),
        request_id: request_id(),
    });
    let answers = client.images().ingest_images(tokio_stream::iter(requests)).await?.into_inner();
    let mut answers: Vec<_> = answers.collect::<Result<_, Status>>().await?;
    answers.sort_by_key(|a| a.sequence);
    let mut results = answers.into_iter().filter_map(|a| a.result);
    let (first, second) = (results.next().context("no answer")?, results.next().context("no second answer")?);
    Ok((first.error, second))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_picture_fails_alone() -> Result<()> {
    let client = cluster().await?.client()?;
    client.create("bad-pictures", None).await?;
    let whole = jpeg(&draw(1, 300, 200), 85)?;
    let avif = Bytes::from_static(b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miafMA1B\0\0\0\0");
    let rows = [
        ("truncated JPEG", whole.slice(..whole.len() / 2), Reason::InvalidPicture),
        ("truncated PNG", png(&draw(2, 300, 200))?.slice(..2000), Reason::InvalidPicture),
        ("text", Bytes::from_static(b"this is no picture at all"), Reason::InvalidPicture),
        ("PNG that claims 50000 x 40000", lying_png(50_000, 40_000)?, Reason::PictureTooLarge),
        ("PNG that claims 300 x 300", lying_png(300, 300)?, Reason::InvalidPicture),
        ("AVIF", avif, Reason::UnsupportedPicture),
    ];
    let bad_ids: Vec<_> = rows.iter().map(|row| format!("bad {}", row.0)).collect();
    for (i, (what, bytes, reason)) in rows.into_iter().enumerate() {
        let good = picture_image(&format!("good-{i}"), png(&draw(10 + i as u64, 100, 100))?);
        let answer =
            client.put("bad-pictures", vec![good, picture_image(&format!("bad {what}"), bytes.clone())]).await?;
        ensure!(answer.results[0].effect() == PutEffect::Created, "{what}: {answer:?}");
        let refusal = Refusal::of_part(answer.results[1].error.as_ref()).context(what)?;
        refusal.is(reason, "").context(what)?;
        ensure!(!refusal.retry && answer.results[1].effect() == PutEffect::Unspecified, "{what}: {answer:?}");
        // As a query.
        let refusal = Refusal::of_call(client.search("bad-pictures", Target::Picture(bytes), 1).await).context(what)?;
        refusal.is(reason, "").context(what)?;
    }
    // Too large or empty: seen without decoding, so that the whole call is refused.
    let large = Bytes::from(vec![0; DEFAULT_MAX_PICTURE_BYTES + 1]);
    for (bytes, reason) in [(large, Reason::PictureTooLarge), (Bytes::new(), Reason::InvalidPicture)] {
        let put = client.put("bad-pictures", vec![picture_image("bad", bytes.clone())]).await;
        Refusal::of_call(put)?.is(reason, "images[0].picture")?;
        Refusal::of_call(client.search("bad-pictures", Target::Picture(bytes), 1).await)?
            .is(reason, "query.picture")?;
    }
    for id in bad_ids {
        ensure!(client.get("bad-pictures", &id).await?.is_none(), "{id} is stored");
    }
    ensure!(client.count("bad-pictures").await? == 6);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_collection_is_not_found_by_any_call() -> Result<()> {
    let client = cluster().await?.client()?;
    let name = "no-such-collection".to_owned();
    let vector = || vector_image("a", vec![1.0, 0.0]);
    let get = GetImageRequest { collection: name.clone(), id: "a".to_owned(), ..Default::default() };
    let batch = BatchGetImagesRequest { collection: name.clone(), ids: vec!["a".to_owned()], ..Default::default() };
    let query = Query { target: Some(by_vector(&[1.0, 0.0])), k: 1, ..Default::default() };
    let queries = BatchSearchRequest { collection: name.clone(), queries: vec![query], ..Default::default() };
    let message = IngestImagesRequest { collection: name.clone(), image: Some(vector()), ..Default::default() };
    let stream = async {
        let answers = client.images().ingest_images(tokio_stream::iter([message])).await?.into_inner();
        answers.collect::<Result<Vec<_>, Status>>().await
    };
    let refusals = [
        Refusal::of_call(client.put(&name, vec![vector()]).await),
        Refusal::of_call(client.search(&name, by_vector(&[1.0, 0.0]), 1).await),
        Refusal::of_call(client.searches().batch_search(queries).await),
        Refusal::of_call(client.images().get_image(get).await),
        Refusal::of_call(client.images().batch_get_images(batch).await),
        Refusal::of_call(client.delete(&name, &["a"]).await),
        Refusal::of_call(stream.await),
        Refusal::of_call(client.collections().get_collection(GetCollectionRequest { name: name.clone() }).await),
        Refusal::of_call(client.collections().delete_collection(DeleteCollectionRequest { name: name.clone() }).await),
    ];
    for (i, refusal) in refusals.into_iter().enumerate() {
        let refusal = refusal.with_context(|| format!("call {i}"))?;
        refusal.is(Reason::CollectionNotFound, "").with_context(|| format!("call {i}"))?;
        ensure!(refusal.message.contains(&name), "call {i}: the message does not name it: {refusal:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_queries_are_refused_by_field() -> Result<()> {
    use Reason::{InvalidArgument, InvalidEmbedding};
    let client = cluster().await?.client()?;
    client.create("bad-queries", Some(4)).await?;
    let vector = |values: &[f32]| Some(by_vector(values));
    let good = Query { target: vector(&[1.0, 0.0, 0.0, 0.0]), k: 1, ..Default::default() };
    let with = |target| Query { target, ..good.clone() };
    let rows = [
        (with(None), InvalidArgument, "query"),
        (with(vector(&[1.0; 3])), InvalidEmbedding, "query.embedding"),
        (with(vector(&[f32::NAN; 4])), InvalidEmbedding, "query.embedding"),
        (with(vector(&[0.0; 4])), InvalidEmbedding, "query.embedding"),
        (with(Some(Target::ImageId(String::new()))), InvalidArgument, "query.image_id"),
        (with(Some(Target::ImageId("x".repeat(257)))), InvalidArgument, "query.image_id"),
        (Query { k: 1001, ..good.clone() }, InvalidArgument, "query.k"),
        (Query { k: u32::MAX, ..good.clone() }, InvalidArgument, "query.k"),
        (Query { min_score: Some(1.5), ..good.clone() }, InvalidArgument, "query.min_score"),
        (Query { min_score: Some(f32::NAN), ..good.clone() }, InvalidArgument, "query.min_score"),
    ];
    let filtered =
        bad_filters().map(|(filter, field)| (Query { filter: Some(filter), ..good.clone() }, InvalidArgument, field));
    let request = |query| SearchRequest { collection: "bad-queries".to_owned(), query, ..Default::default() };
    for (query, reason, field) in rows.into_iter().chain(filtered) {
        let what = format!("{query:?}");
        let outcome = client.searches().search(request(Some(query))).await;
        let refusal = Refusal::of_call(outcome).with_context(|| what[..what.len().min(200)].to_owned())?;
        refusal.is(reason, field)?;
    }
    Refusal::of_call(client.searches().search(request(None)).await)?.is(InvalidArgument, "query")?;
    let odd = SearchRequest { consistency: 99, ..request(Some(good.clone())) };
    Refusal::of_call(client.searches().search(odd).await)?.is(InvalidArgument, "consistency")?;
    let token = SessionToken { value: vec![9, 9, 9] };
    let odd = SearchRequest { session_tokens: vec![token], ..request(Some(good.clone())) };
    Refusal::of_call(client.searches().search(odd).await)?.is(InvalidArgument, "session_tokens")?;
    for n in [0, 65] {
        let queries = vec![good.clone(); n];
        let request = BatchSearchRequest { collection: "bad-queries".to_owned(), queries, ..Default::default() };
        Refusal::of_call(client.searches().batch_search(request).await)?.is(InvalidArgument, "queries")?;
    }
    Ok(())
}

/// Filters over every bound, with the field to blame.
fn bad_filters() -> [(Filter, &'static str); 9] {
    use omma_proto::v1::filter::Condition;
    let of = |condition| Filter { condition: Some(condition) };
    let value = |n| AttributeValue { kind: Some(attribute_value::Kind::IntegerValue(n)) };
    let exists = |name: &str| of(Condition::Exists(ExistsCondition { attribute: name.to_owned() }));
    let equals = |value| of(Condition::Equals(EqualsCondition { attribute: "a".to_owned(), value }));
    let all_of = |filters| of(Condition::AllOf(FilterList { filters }));
    let values = (0..257).map(value).collect();
    let list = attribute_value::Kind::StringListValue(StringList::default());
    let deep = (0..8).fold(exists("a"), |inner, _| of(Condition::Negation(Box::new(inner))));
    [
        (Filter::default(), "query.filter"),
        (exists(""), "query.filter.exists.attribute"),
        (equals(None), "query.filter.equals.value"),
        (equals(Some(AttributeValue { kind: Some(list) })), "query.filter.equals.value"),
        (of(Condition::IsIn(InCondition { attribute: "a".to_owned(), values })), "query.filter.is_in.values"),
        (
            of(Condition::Range(RangeCondition { attribute: "a".to_owned(), ..Default::default() })),
            "query.filter.range",
        ),
        (all_of(vec![exists("a"), Filter::default()]), "query.filter.all_of.filters[1]"),
        (all_of(vec![exists("a"); 64]), "query.filter"),
        (deep, "query.filter.negation.negation.negation.negation.negation.negation.negation.negation"),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused_by_field() -> Result<()> {
    use Reason::InvalidArgument;
    let client = cluster().await?.client()?;
    client.create("bad-requests", Some(2)).await?;
    let vector = |id: &str| vector_image(id, vec![1.0, 0.0]);
    let put = |images, request_id: &str| PutImagesRequest {
        collection: "bad-requests".to_owned(),
        images,
        request_id: request_id.to_owned(),
    };
    let many = (0..257).map(|i| vector(&i.to_string())).collect();
    let mut images = client.images();
    for (request, field) in [
        (put(vec![], ""), "images"),
        (put(many, ""), "images"),
        (put(vec![vector("a"), vector("b"), vector("a")], ""), "images[2].id"),
        (put(vec![vector("a")], "not a request id"), "request_id"),
        (PutImagesRequest { collection: "No Name".to_owned(), ..put(vec![vector("a")], "") }, "collection"),
        (PutImagesRequest { collection: String::new(), ..put(vec![vector("a")], "") }, "collection"),
    ] {
        Refusal::of_call(images.put_images(request).await)?.is(InvalidArgument, field)?;
    }
    Refusal::of_call(client.delete("bad-requests", &[]).await)?.is(InvalidArgument, "ids")?;
    Refusal::of_call(client.delete("bad-requests", &["ok", ""]).await)?.is(InvalidArgument, "ids[1]")?;
    Refusal::of_call(client.delete("bad-requests", &["a"; 1001]).await)?.is(InvalidArgument, "ids")?;
    let nameless = IngestImagesRequest { image: Some(vector("a")), ..Default::default() };
    let answers = images.ingest_images(tokio_stream::iter([nameless])).await?.into_inner();
    Refusal::of_call(answers.collect::<Result<Vec<_>, Status>>().await)?.is(InvalidArgument, "collection")?;
    ensure!(client.count("bad-requests").await? == 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_collections_are_refused_by_field() -> Result<()> {
    use Reason::InvalidArgument;
    let client = cluster().await?.client()?;
    let space = |id: &str, dimension| Some(VectorSpace { id: id.to_owned(), dimension });
    let create = |name: &str, vector_space| CreateCollectionRequest {
        name: name.to_owned(),
        vector_space,
        ..CreateCollectionRequest::default()
    };
    let mut collections = client.collections();
    for name in ["", "-a", "_a", "Upper", "white space", "ümlaut", &"a".repeat(65), "../etc"] {
        Refusal::of_call(collections.create_collection(create(name, None)).await)?.is(InvalidArgument, "name")?;
    }
    for dimension in [0, 8193] {
        let outcome = collections.create_collection(create("dimension", space("s", dimension))).await;
        Refusal::of_call(outcome)?.is(InvalidArgument, "vector_space.dimension")?;
    }
    let outcome = collections.create_collection(create("space", space("", 4))).await;
    Refusal::of_call(outcome)?.is(InvalidArgument, "vector_space.id")?;
    client.create("taken", Some(4)).await?;
    Refusal::of_call(collections.create_collection(create("taken", space("s", 4))).await)?
        .is(Reason::CollectionExists, "")?;
    let request = ListCollectionsRequest { page_size: -1, page_token: String::new() };
    Refusal::of_call(collections.list_collections(request).await)?.is(InvalidArgument, "page_size")?;
    let request = ListCollectionsRequest { page_size: 0, page_token: "\u{1f6ab} no token".to_owned() };
    Refusal::of_call(collections.list_collections(request).await)?.is(InvalidArgument, "page_token")
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_but_allowed_ids_are_kept_byte_by_byte() -> Result<()> {
    let client = cluster().await?.client()?;
    client.create("odd-ids", Some(8)).await?;
    // Composed and decomposed é look alike, and are two ids.
    let longest = "x".repeat(256);
    let odd = ["é", "e\u{301}", "👁️‍🗨️", "\u{202e}abc", " ", "a/b\\c", &longest];
    let vector = |i: usize| (0..8).map(|j| if i == j { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let images = odd.iter().enumerate().map(|(i, id)| vector_image(id, vector(i))).collect();
    client.store("odd-ids", images, PATIENCE).await?;
    for (i, id) in odd.iter().enumerate() {
        ensure!(ids(&client.search("odd-ids", by_vector(&vector(i)), 1).await?) == [*id], "{id:?}");
        ensure!(client.get("odd-ids", id).await?.context("get")?.id == *id);
    }
    ensure!(client.delete("odd-ids", &["é"]).await?.deleted_count == 1);
    ensure!(client.get("odd-ids", "e\u{301}").await?.is_some());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_is_refused() -> Result<()> {
    let client = cluster().await?.client()?;
    client.create("large", None).await?;
    let piece = Bytes::from(vec![7; DEFAULT_MAX_PICTURE_BYTES - 1]);
    let images: Vec<_> = (0..3).map(|i| picture_image(&format!("p{i}"), piece.clone())).collect();
    ensure!(images.len() * piece.len() > MAX_MESSAGE_BYTES);
    let refusal = Refusal::of_call(client.put("large", images).await)?;
    refusal.is(Reason::MessageTooLarge, "")?;
    ensure!(client.count("large").await? == 0);
    Ok(())
}

/// A stream whose client vanishes: what was acknowledged is there, everything else wholly or not at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stops_half_way_leaves_nothing_half_written() -> Result<()> {
    let client = cluster().await?.client()?;
    client.create("half-way", Some(64)).await?;
    let vector = |i: usize| (0..64).map(|j| if i == j { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
    let requests = (0..64).map(move |i| IngestImagesRequest {
        collection: "half-way".to_owned(),
        sequence: i as u64,
        image: Some(vector_image(&format!("i{i}"), vector(i))),
        request_id: request_id(),
    });
    // Never ends by itself.
    let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
    let mut acknowledged = Vec::new();
    {
        let mut answers = client.images().ingest_images(requests).await?.into_inner();
        while acknowledged.len() < 20 {
            let answer = answers.next().await.context("the stream ended")??;
            acknowledged.push(answer.result.context("result")?.id);
        }
    }
    // What was on its way when the client vanished may still arrive.
    let mut count = client.count("half-way").await?;
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        match client.count("half-way").await? {
            same if same == count => break,
            more => count = more,
        }
    }
    let mut there = 0;
    for i in 0..64 {
        let id = format!("i{i}");
        let stored = client.get("half-way", &id).await?;
        ensure!(stored.is_some() || !acknowledged.contains(&id), "{id} was acknowledged and is not there");
        let hits = client.search("half-way", by_vector(&vector(i)), 1).await?;
        let found = ids(&hits).first() == Some(&id.as_str());
        ensure!(found == stored.is_some(), "{id} is half there: {stored:?} {hits:?}");
        there += u64::from(found);
    }
    ensure!(count == there, "{count} images counted, {there} found");
    Ok(())
}

/// Bytes that are no messages: a frame that is cut off, and one that is no protobuf.
#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_no_messages_end_their_call_alone() -> Result<()> {
    use prost::Message;
    let client = cluster().await?.client()?;
    client.create("frames", Some(2)).await?;
    let whole = IngestImagesRequest {
        collection: "frames".to_owned(),
        sequence: 1,
        image: Some(vector_image("whole", vec![1.0, 0.0])),
        request_id: String::new(),
    };
    let whole = frame(&whole.encode_to_vec(), None);
    let cut = frame(&[1; 100], Some(1000));
    let noise = frame(&[0xff; 100], None);
    for (what, tail) in [("cut off", cut), ("noise", noise)] {
        let bytes = [whole.clone(), tail].concat();
        let code = raw_call(&client, "/omma.v1.ImageService/IngestImages", bytes).await.context(what)?;
        ensure!(code != Code::Ok, "{what}: {code:?}");
        ensure!(client.get("frames", "whole").await?.is_some(), "{what}: the image before it is lost");
    }
    ensure!(client.count("frames").await? == 1);
    Ok(())
}

/// What would not fit into a message is told as that, and not as the fault of groups that a retry might find well.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_too_large_is_told_as_such() -> Result<()> {
    let client = cluster().await?.client()?;
    client.create("large-answers", Some(2)).await?;
    let text = AttributeValue { kind: Some(Kind::StringValue("x".repeat(60_000))) };
    let images = (0..700).map(|i| {
        let (sine, cosine) = (std::f32::consts::TAU * i as f32 / 700.0).sin_cos();
        NewImage {
            attributes: [("text".to_owned(), text.clone())].into(),
            ..vector_image(&format!("l{i}"), vec![cosine, sine])
        }
    });
    for batch in images.collect::<Vec<_>>().chunks(200) {
        client.store("large-answers", batch.to_vec(), PATIENCE).await?;
    }
    let query = |k| Query { target: Some(by_vector(&[1.0, 1.0])), k, min_score: None, filter: None };
    let search = |k, include_attributes| SearchRequest {
        collection: "large-answers".to_owned(),
        query: Some(query(k)),
        include_attributes,
        ..Default::default()
    };
    let batch = BatchSearchRequest {
        collection: "large-answers".to_owned(),
        queries: vec![query(700); 4],
        include_attributes: true,
        ..Default::default()
    };
    // One that the coordinator puts together, and one that no group could send.
    let refusals = [
        client.searches().search(search(700, true)).await.err().context("a search of 42 MB")?,
        client.searches().batch_search(batch).await.err().context("a batch of 168 MB")?,
    ];
    for status in refusals {
        let refusal = Refusal::of(&status)?;
        ensure!(refusal.reason == Reason::MessageTooLarge.name() && !refusal.retry, "{refusal:?}");
    }
    ensure!(client.searches().search(search(700, false)).await?.into_inner().hits.len() > 600);
    ensure!(client.searches().search(search(100, true)).await?.into_inner().hits.len() == 100);
    Ok(())
}

/// A gRPC frame; it may lie about its length.
fn frame(message: &[u8], length: Option<u32>) -> Vec<u8> {
    let length = length.unwrap_or(message.len() as u32);
    [&[0], length.to_be_bytes().as_slice(), message].concat()
}

/// Sends `body` as it is; returns the `grpc-status`.
async fn raw_call(client: &Client, path: &str, body: Vec<u8>) -> Result<Code> {
    use http_body_util::{BodyExt, Full};
    use tower::{Service, ServiceExt};
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(tonic::body::Body::new(Full::new(Bytes::from(body))))?;
    let mut channel = client.channel();
    let answer = channel.ready().await?.call(request).await?;
    let in_headers = answer.headers().get("grpc-status").cloned();
    let collected = answer.into_body().collect().await?;
    let status = in_headers.or_else(|| collected.trailers().and_then(|t| t.get("grpc-status").cloned()));
    Ok(Code::from_bytes(status.context("no grpc-status")?.as_bytes()))
}

/// A model folder that lacks a file: the node says which, and ends.
#[test]
fn an_incomplete_model_folder_ends_the_node_with_a_message() -> Result<()> {
    use omma_integration_tests::folders::{binary, target_folder};
    use omma_integration_tests::ports::free_port;
    let folder = target_folder()?.join("cluster-data").join(format!("model-{}", std::process::id()));
    let model = folder.join("model");
    std::fs::create_dir_all(&model)?;
    let address = format!("127.0.0.1:{}", free_port()?);
    let run = || -> Result<_> {
        let mut command = std::process::Command::new(binary("omma-shard")?);
        command.args(["--listen", &address, "--advertise", &address, "--peers", &address]);
        command.args(["--groups", "1", "--replication", "1"]).arg("--data").arg(folder.join("data"));
        Ok(command.arg("--model").arg(&model).output()?)
    };
    for (present, missing) in [(None, "model.onnx"), (Some("model.onnx"), "preprocessor_config.json")] {
        if let Some(name) = present {
            std::fs::write(model.join(name), b"")?;
        }
        let output = run()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        ensure!(!output.status.success(), "it started without {missing}: {said}");
        ensure!(said.contains(missing), "the message does not name {missing}: {said}");
        ensure!(!said.contains("panicked"), "{said}");
    }
    std::fs::remove_dir_all(folder)?;
    Ok(())
}
