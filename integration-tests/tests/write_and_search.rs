//! The main job, through the public API: pictures in, neighbours out; and all that belongs to writing and reading.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use image::imageops;
use omma_common::error::Reason;
use omma_integration_tests::client::{Client, by_vector, ids, picture_image, request_id, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::pictures::{crop, draw, jpeg, png};
use omma_integration_tests::refusal::Refusal;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::query::Target;
use omma_proto::v1::*;
use tokio::sync::OnceCell;
use tokio_stream::StreamExt;

const PATIENCE: Duration = Duration::from_secs(30);

/// All tests of this file use one cluster, each with collections of its own.
async fn client() -> Result<Client> {
    static CLUSTER: OnceCell<Cluster> = OnceCell::const_new();
    CLUSTER.get_or_try_init(|| Cluster::start(ClusterOptions::named("write_and_search"))).await?.client()
}

fn effects(answer: &PutImagesResponse) -> Vec<PutEffect> {
    answer.results.iter().map(PutResult::effect).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_copies_find_their_original() -> Result<()> {
    let client = client().await?;
    client.create("altered", None).await?;
    let originals: Vec<_> = (0..24).map(|i| draw(i, 320, 240)).collect();
    let images = originals.iter().enumerate().map(|(i, p)| Ok(picture_image(&format!("p{i}"), jpeg(p, 92)?)));
    let answer = client.store("altered", images.collect::<Result<_>>()?, PATIENCE).await?;
    ensure!(effects(&answer).iter().all(|&e| e == PutEffect::Created), "{answer:?}");
    ensure!(client.count("altered").await? == 24);

    // Drawn pictures are no photos: the model confuses a few strongly altered ones. `quality.rs` measures photos.
    let (mut copies_sent, mut first) = (0, 0);
    for (i, original) in originals.iter().enumerate() {
        let copies = [
            ("itself", jpeg(original, 92)?),
            ("recompressed", jpeg(original, 60)?),
            ("cropped", png(&crop(original, 0.9))?),
            ("flipped", png(&imageops::flip_horizontal(original))?),
            ("smaller", png(&imageops::resize(original, 280, 210, imageops::FilterType::Triangle))?),
        ];
        for (how, copy) in copies {
            let found = client.search("altered", Target::Picture(copy), 3).await?;
            let is_first = ids(&found).first() == Some(&format!("p{i}").as_str());
            ensure!(is_first || how != "itself", "{how} p{i}: {found:?}");
            copies_sent += 1;
            first += usize::from(is_first);
            ensure!(found.hits.len() == 3 && found.hits.windows(2).all(|w| w[0].score >= w[1].score), "{found:?}");
            ensure!(how != "itself" || found.hits[0].score > 0.999, "{found:?}");
            let timings = found.timings.context("timings")?;
            ensure!(timings.total.is_some() && timings.inference.is_some(), "{timings:?}");
        }
    }
    ensure!(first * 10 >= copies_sent * 8, "only {first} of {copies_sent} copies found their original first");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_neighbours_of_a_stored_image_leave_itself_out() -> Result<()> {
    let client = client().await?;
    client.create("by-id", None).await?;
    let picture = draw(100, 256, 256);
    let mut images = vec![picture_image("a", png(&picture)?), picture_image("copy", jpeg(&picture, 60)?)];
    for i in 0..6 {
        images.push(picture_image(&format!("other-{i}"), png(&draw(200 + i, 256, 256))?));
    }
    client.store("by-id", images, PATIENCE).await?;
    let found = client.search("by-id", Target::ImageId("a".to_owned()), 10).await?;
    ensure!(ids(&found)[0] == "copy" && found.hits.len() == 7, "{found:?}");
    ensure!(!ids(&found).contains(&"a"), "{found:?}");

    // The stored embedding finds its image.
    let stored = client.get("by-id", "a").await?.context("a")?;
    let values = stored.embedding.context("embedding")?.values;
    let length: f32 = values.iter().map(|x| x * x).sum();
    ensure!((length - 1.0).abs() < 1e-4, "of length {length}");
    ensure!(stored.content_digest.len() == 32, "{:?}", stored.content_digest);
    ensure!(ids(&client.search("by-id", by_vector(&values), 1).await?) == ["a"]);
    let refusal = Refusal::of_call(client.search("by-id", Target::ImageId("nobody".to_owned()), 1).await)?;
    refusal.is(Reason::ImageNotFound, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn attributes_come_back_as_they_were_sent() -> Result<()> {
    let client = client().await?;
    client.create("attributes", Some(4)).await?;
    let kinds = [
        ("string", Kind::StringValue("Ωmma \"quoted\"".to_owned())),
        ("integer", Kind::IntegerValue(i64::MIN)),
        ("float", Kind::FloatValue(-0.1)),
        ("bool", Kind::BoolValue(false)),
        ("timestamp", Kind::TimestampValue(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 7 })),
        ("list", Kind::StringListValue(StringList { values: vec!["a".to_owned(), String::new()] })),
    ];
    let attributes: std::collections::BTreeMap<_, _> =
        kinds.into_iter().map(|(k, v)| (k.to_owned(), AttributeValue { kind: Some(v) })).collect();
    let image = NewImage { attributes: attributes.clone(), ..vector_image("a", vec![1.0, 0.0, 0.0, 0.0]) };
    client.store("attributes", vec![image, vector_image("b", vec![0.0, 1.0, 0.0, 0.0])], PATIENCE).await?;

    ensure!(client.get("attributes", "a").await?.context("a")?.attributes == attributes);
    let found = client.search("attributes", by_vector(&[1.0, 0.1, 0.0, 0.0]), 2).await?;
    ensure!(ids(&found) == ["a", "b"] && found.hits[0].attributes == attributes, "{found:?}");
    ensure!(found.hits[1].attributes.is_empty(), "{found:?}");

    // A put replaces them.
    client.store("attributes", vec![vector_image("a", vec![1.0, 0.0, 0.0, 0.0])], PATIENCE).await?;
    ensure!(client.get("attributes", "a").await?.context("a")?.attributes.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_or_replaced_is_not_found() -> Result<()> {
    let client = client().await?;
    client.create("gone", Some(3)).await?;
    let (x, y, z) = (vec![1.0, 0.0, 0.0], vec![0.0, 1.0, 0.0], vec![0.0, 0.0, 1.0]);
    let answer =
        client.store("gone", vec![vector_image("a", x.clone()), vector_image("b", y.clone())], PATIENCE).await?;
    ensure!(effects(&answer) == [PutEffect::Created; 2]);

    let answer = client.store("gone", vec![vector_image("a", z.clone())], PATIENCE).await?;
    ensure!(effects(&answer) == [PutEffect::Replaced]);
    let near_x = client.search("gone", by_vector(&x), 10).await?;
    ensure!(near_x.hits.iter().all(|h| h.score < 0.01), "the replaced embedding is found: {near_x:?}");
    ensure!(ids(&client.search("gone", by_vector(&z), 1).await?) == ["a"]);
    ensure!(client.count("gone").await? == 2);

    ensure!(client.delete("gone", &["a", "never-was"]).await?.deleted_count == 1);
    ensure!(ids(&client.search("gone", by_vector(&z), 10).await?) == ["b"]);
    ensure!(client.get("gone", "a").await?.is_none());
    ensure!(client.delete("gone", &["a"]).await?.deleted_count == 0);
    ensure!(client.count("gone").await? == 1);

    // And it may come back.
    let answer = client.store("gone", vec![vector_image("a", x.clone())], PATIENCE).await?;
    ensure!(effects(&answer) == [PutEffect::Created]);
    ensure!(ids(&client.search("gone", by_vector(&x), 1).await?) == ["a"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_picture_is_not_written_again() -> Result<()> {
    let client = client().await?;
    client.create("unchanged", None).await?;
    let picture = png(&draw(300, 200, 200))?;
    let put = || vec![picture_image("a", picture.clone())];
    ensure!(effects(&client.store("unchanged", put(), PATIENCE).await?) == [PutEffect::Created]);
    ensure!(effects(&client.store("unchanged", put(), PATIENCE).await?) == [PutEffect::Unchanged]);
    let other = vec![picture_image("a", png(&draw(301, 200, 200))?)];
    ensure!(effects(&client.store("unchanged", other, PATIENCE).await?) == [PutEffect::Replaced]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_answers_as_the_first_call_did() -> Result<()> {
    let client = client().await?;
    client.create("retries", Some(2)).await?;
    let put = |id: &str, request_id: &str| PutImagesRequest {
        collection: "retries".to_owned(),
        images: vec![vector_image(id, vec![1.0, 0.0]), vector_image("second", vec![0.0, 1.0])],
        request_id: request_id.to_owned(),
    };
    let request = put("a", &request_id());
    let first = client.images().put_images(request.clone()).await?.into_inner();
    ensure!(effects(&first) == [PutEffect::Created; 2]);
    let again = client.images().put_images(request.clone()).await?.into_inner();
    ensure!(again.results == first.results, "{again:?}\n{first:?}");

    // Once means once: a retry that comes late does not bring back what was deleted meanwhile.
    client.delete("retries", &["a", "second"]).await?;
    let late = client.images().put_images(request.clone()).await?.into_inner();
    ensure!(late.results == first.results, "{late:?}");
    ensure!(client.get("retries", "a").await?.is_none(), "the retry took effect a second time");

    // Another write under the same id is refused, not answered as if it had been done.
    let other = vec![vector_image("a", vec![0.0, -1.0]), vector_image("second", vec![-1.0, 0.0])];
    let refused = client.images().put_images(PutImagesRequest { images: other, ..request }).await;
    let refusal = Refusal::of(&refused.err().context("another write under the same request id")?)?;
    ensure!(refusal.reason == Reason::InvalidArgument.name() && refusal.fields == ["request_id"], "{refusal:?}");
    ensure!(client.get("retries", "a").await?.is_none());

    let delete = |request_id: &str| DeleteImagesRequest {
        collection: "retries".to_owned(),
        ids: vec!["b".to_owned()],
        request_id: request_id.to_owned(),
    };
    client.store("retries", vec![vector_image("b", vec![1.0, 1.0])], PATIENCE).await?;
    let request = delete(&request_id());
    for _ in 0..2 {
        let answer = client.images().delete_images(request.clone()).await?.into_inner();
        ensure!(answer.deleted_count == 1, "{answer:?}");
    }

    let create = CreateCollectionRequest {
        name: "created-twice".to_owned(),
        vector_space: Some(VectorSpace { id: "mine".to_owned(), dimension: 2 }),
        request_id: request_id(),
        ..CreateCollectionRequest::default()
    };
    let first = client.collections().create_collection(create.clone()).await?.into_inner();
    let again = client.collections().create_collection(create).await?.into_inner();
    ensure!(first == again, "{first:?} {again:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_answers_every_image_and_survives_bad_ones() -> Result<()> {
    let client = client().await?;
    client.create("stream", None).await?;
    let good: u64 = 30;
    let mut requests = Vec::new();
    for i in 0..good {
        // Only the first names the collection.
        let collection = if i == 0 { "stream".to_owned() } else { String::new() };
        let image = Some(picture_image(&format!("s{i}"), jpeg(&draw(400 + i, 240, 180), 85)?));
        requests.push(IngestImagesRequest { collection, sequence: i, image, request_id: request_id() });
        if i % 10 == 5 {
            let bad = picture_image(&format!("bad{i}"), bytes::Bytes::from_static(b"this is no picture"));
            let request = IngestImagesRequest { sequence: 1000 + i, image: Some(bad), ..Default::default() };
            requests.push(request);
        }
    }
    let sent = requests.len();
    let mut answers = client.images().ingest_images(tokio_stream::iter(requests)).await?.into_inner();
    let mut sequences = Vec::new();
    let mut tokens = Vec::new();
    while let Some(answer) = answers.next().await {
        let answer = answer?;
        let result = answer.result.context("an answer without a result")?;
        if answer.sequence >= 1000 {
            Refusal::of_part(result.error.as_ref())?.is(Reason::InvalidPicture, "")?;
        } else {
            ensure!(result.id == format!("s{}", answer.sequence), "{result:?}");
            ensure!(result.error.as_ref().is_none_or(|e| e.code == 0), "{result:?}");
            tokens.extend(answer.session_token);
        }
        sequences.push(answer.sequence);
    }
    sequences.sort_unstable();
    sequences.dedup();
    ensure!(sequences.len() == sent, "{} of {sent} answered: {sequences:?}", sequences.len());
    ensure!(client.count("stream").await? == good);

    // A read at CONSISTENCY_SESSION sees every write whose token is handed in.
    let request = BatchGetImagesRequest {
        collection: "stream".to_owned(),
        ids: (0..good).map(|i| format!("s{i}")).chain(["bad5".to_owned()]).collect(),
        consistency: Consistency::Session.into(),
        session_tokens: tokens,
        include_embedding: false,
    };
    let images = client.images().batch_get_images(request).await?.into_inner().images;
    let got: Vec<_> = images.iter().map(|i| i.id.clone()).collect();
    ensure!(got == (0..good).map(|i| format!("s{i}")).collect::<Vec<_>>(), "{got:?}");
    ensure!(images.iter().all(|i| i.embedding.is_none()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_reads_its_own_writes_every_time() -> Result<()> {
    let client = client().await?;
    let seed = seed("a_session_reads_its_own_writes_every_time");
    let mut rng = generator(seed, 0);
    client.create("session", Some(16)).await?;
    for i in 0..150 {
        let (id, vector) = (format!("i{i}"), unit_vector(&mut rng, 16));
        let stored = client.store("session", vec![vector_image(&id, vector.clone())], PATIENCE).await?;
        let request = SearchRequest {
            collection: "session".to_owned(),
            query: Some(Query { target: Some(by_vector(&vector)), k: 1, ..Default::default() }),
            consistency: Consistency::Session.into(),
            session_tokens: stored.session_token.into_iter().collect(),
            ..Default::default()
        };
        let found = client.searches().search(request).await?.into_inner();
        ensure!(ids(&found) == [id.as_str()], "image {i}: {found:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_exact_ordered_and_cover_all_groups() -> Result<()> {
    let client = client().await?;
    let seed = seed("answers_are_exact_ordered_and_cover_all_groups");
    let mut rng = generator(seed, 0);
    client.create("exact", Some(24)).await?;
    let stored: Vec<_> = (0..400).map(|i| (format!("v{i}"), unit_vector(&mut rng, 24))).collect();
    for batch in stored.chunks(100) {
        let images = batch.iter().map(|(id, v)| vector_image(id, v.clone())).collect();
        client.store("exact", images, PATIENCE).await?;
    }
    let queries: Vec<_> = (0..20).map(|_| unit_vector(&mut rng, 24)).collect();
    let (mut right, mut wanted) = (0, 0);
    for query in &queries {
        let found = client.search("exact", by_vector(query), 10).await?;
        let coverage = found.coverage.clone().context("coverage")?;
        ensure!((coverage.groups_asked, coverage.groups_answered) == (3, 3), "{coverage:?}");
        let best = best_by_brute_force(&stored, query, 10);
        right += ids(&found).iter().filter(|id| best.iter().any(|(b, _)| b == *id)).count();
        wanted += best.len();
        for hit in &found.hits {
            let expected = score_of(&stored, query, &hit.id)?;
            ensure!((hit.score - expected).abs() < 2e-3, "{hit:?}: {expected}");
        }
    }
    let recall = right as f64 / f64::from(wanted as u32);
    ensure!(recall >= 0.99, "recall@10 is {recall}");

    // The same queries in one call give the same answers; a bad one among them fails alone.
    let mut batch: Vec<_> =
        queries.iter().map(|q| Query { target: Some(by_vector(q)), k: 10, ..Default::default() }).collect();
    batch.push(Query { target: Some(by_vector(&[1.0; 3])), k: 10, ..Default::default() });
    let request = BatchSearchRequest { collection: "exact".to_owned(), queries: batch, ..Default::default() };
    let answers = client.searches().batch_search(request).await?.into_inner().results;
    ensure!(answers.len() == queries.len() + 1);
    for (query, answer) in queries.iter().zip(&answers) {
        let alone = client.search("exact", by_vector(query), 10).await?;
        ensure!(ids(&alone) == ids(answer.response.as_ref().context("response")?), "{answer:?}");
    }
    let last = answers.last().context("last")?;
    ensure!(last.response.is_none());
    Refusal::of_part(last.error.as_ref())?.is(Reason::InvalidEmbedding, "embedding")
}

fn score_of(stored: &[(String, Vec<f32>)], query: &[f32], id: &str) -> Result<f32> {
    let (_, v) = stored.iter().find(|(i, _)| i == id).with_context(|| format!("{id} was never stored"))?;
    Ok(v.iter().zip(query).map(|(a, b)| a * b).sum())
}

fn best_by_brute_force(stored: &[(String, Vec<f32>)], query: &[f32], k: usize) -> Vec<(String, f32)> {
    let mut all: Vec<_> =
        stored.iter().map(|(id, v)| (id.clone(), v.iter().zip(query).map(|(a, b)| a * b).sum::<f32>())).collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1));
    all.truncate(k);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn hits_below_the_least_score_are_left_out() -> Result<()> {
    let client = client().await?;
    client.create("scores", Some(2)).await?;
    let images = [("near", [1.0, 0.1]), ("far", [0.1, 1.0]), ("opposite", [-1.0, 0.0])];
    let images = images.map(|(id, v)| vector_image(id, v.to_vec())).to_vec();
    client.store("scores", images, PATIENCE).await?;
    for (min_score, expected) in [(Some(0.9), 1), (Some(0.0), 2), (Some(-1.0), 3), (None, 3)] {
        let request = SearchRequest {
            collection: "scores".to_owned(),
            query: Some(Query { target: Some(by_vector(&[1.0, 0.0])), k: 0, min_score, ..Default::default() }),
            ..Default::default()
        };
        let found = client.searches().search(request).await?.into_inner();
        ensure!(found.hits.len() == expected, "{min_score:?}: {found:?}");
        ensure!(found.hits.iter().all(|h| h.attributes.is_empty()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_are_listed_by_pages_and_deleted_for_good() -> Result<()> {
    let client = client().await?;
    let names: Vec<_> = (0..7).map(|i| format!("page-{i}")).collect();
    for name in &names {
        client.create(name, Some(2)).await?;
    }
    let (mut listed, mut page_token, mut pages) = (Vec::new(), String::new(), 0);
    loop {
        let request = ListCollectionsRequest { page_size: 3, page_token };
        let page = client.collections().list_collections(request).await?.into_inner();
        ensure!(page.collections.len() <= 3, "{page:?}");
        listed.extend(page.collections.into_iter().map(|c| c.name));
        (page_token, pages) = (page.next_page_token, pages + 1);
        if page_token.is_empty() {
            break;
        }
        ensure!(pages < 100, "the list has no end");
    }
    ensure!(listed.is_sorted(), "{listed:?}");
    ensure!(names.iter().all(|n| listed.contains(n)), "{listed:?}");

    let name = names[0].clone();
    client.store(&name, vec![vector_image("a", vec![1.0, 0.0])], PATIENCE).await?;
    let old = client.collections().get_collection(GetCollectionRequest { name: name.clone() }).await?.into_inner();
    client.collections().delete_collection(DeleteCollectionRequest { name: name.clone() }).await?;
    Refusal::of_call(client.put(&name, vec![vector_image("b", vec![1.0, 0.0])]).await)?
        .is(Reason::CollectionNotFound, "")?;
    let new = client.create(&name, Some(2)).await?;
    ensure!(new.uid != old.collection.context("collection")?.uid, "the uid is used again");
    ensure!(client.count(&name).await? == 0, "an image of the deleted collection is back");
    ensure!(client.get(&name, "a").await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_need_the_encoders_space() -> Result<()> {
    let client = client().await?;
    client.create("foreign-space", Some(1280)).await?;
    let answer = client.put("foreign-space", vec![picture_image("a", png(&draw(1, 64, 64))?)]).await;
    let refusal = match &answer {
        Ok(answer) => Refusal::of_part(answer.results[0].error.as_ref())?,
        Err(status) => Refusal::of(status)?,
    };
    refusal.is(Reason::VectorSpaceMismatch, "")?;
    let picture = Target::Picture(png(&draw(1, 64, 64))?);
    Refusal::of_call(client.search("foreign-space", picture, 1).await)?.is(Reason::VectorSpaceMismatch, "")
}
