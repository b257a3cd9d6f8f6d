//! Images and pictures that are put.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use omma_common::error::Reason;
use omma_common::limits::DEFAULT_MAX_PICTURE_BYTES;
use omma_integration_tests::client::{Client, by_vector, ids, picture_image, request_id, vector_image};
use omma_integration_tests::pictures::{draw, jpeg, lying_png, png};
use omma_integration_tests::refusal::Refusal;
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::query::Target;
use omma_proto::v1::{AttributeValue, IngestImagesRequest, NewImage, PutEffect, PutResult};
use tokio_stream::StreamExt;
use tonic::Status;

use super::{PATIENCE, cluster};

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
