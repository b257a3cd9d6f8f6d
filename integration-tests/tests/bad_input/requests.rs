//! Calls about collections that are not there, and requests that name too many or wrong things.

use anyhow::{Context, Result, ensure};
use omma_common::error::Reason;
use omma_integration_tests::client::{by_vector, vector_image};
use omma_integration_tests::refusal::Refusal;
use omma_proto::v1::*;
use tokio_stream::StreamExt;
use tonic::Status;

use super::cluster;

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
