//! Filtered searches over a real cluster: what is written is what filters see, at once, on every replica, and after
//! everything was killed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use omma_integration_tests::client::{Client, by_vector, ids, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::filter::Condition;
use omma_proto::v1::range_condition::{Lower, Upper};
use omma_proto::v1::*;
use rand::Rng;
use rand::rngs::StdRng;

const COLLECTION: &str = "filters";
const DIMENSION: usize = 16;
const IMAGES: usize = 600;
const PATIENCE: Duration = Duration::from_secs(60);

/// What was written last under an id.
#[derive(Debug, Clone)]
struct Written {
    vector: Vec<f32>,
    colour: &'static str,
    price: f64,
    stock: i64,
    tags: Vec<&'static str>,
}

type Model = BTreeMap<String, Written>;

fn draw(rng: &mut StdRng) -> Written {
    let colours = ["red", "green", "blue"];
    let tags = ["cat", "dog"].into_iter().filter(|_| rng.random_bool(0.5)).collect();
    Written {
        colour: colours[rng.random_range(0..3)],
        price: f64::from(rng.random_range(0..100)) / 4.0,
        stock: rng.random_range(0..100),
        tags,
        vector: unit_vector(rng, DIMENSION),
    }
}

fn value(kind: Kind) -> AttributeValue {
    AttributeValue { kind: Some(kind) }
}

fn text(text: &str) -> AttributeValue {
    value(Kind::StringValue(text.to_owned()))
}

fn image(id: &str, written: &Written) -> NewImage {
    let tags = StringList { values: written.tags.iter().map(|&t| t.to_owned()).collect() };
    let mut attributes = BTreeMap::from([
        ("colour".to_owned(), text(written.colour)),
        ("price".to_owned(), value(Kind::FloatValue(written.price))),
        ("tags".to_owned(), value(Kind::StringListValue(tags))),
    ]);
    if written.stock > 0 {
        attributes.insert("stock".to_owned(), value(Kind::IntegerValue(written.stock)));
    }
    NewImage { attributes, ..vector_image(id, written.vector.clone()) }
}

fn of(condition: Condition) -> Filter {
    Filter { condition: Some(condition) }
}

fn equals(attribute: &str, value: AttributeValue) -> Filter {
    of(Condition::Equals(EqualsCondition { attribute: attribute.to_owned(), value: Some(value) }))
}

fn range(attribute: &str, lower: Option<Lower>, upper: Option<Upper>) -> Filter {
    of(Condition::Range(RangeCondition { attribute: attribute.to_owned(), lower, upper }))
}

fn in_stock() -> Filter {
    of(Condition::Exists(ExistsCondition { attribute: "stock".to_owned() }))
}

type Meaning = fn(&Written) -> bool;

/// Filters, and what they mean.
fn filters() -> Vec<(Filter, Meaning)> {
    let list = |filters: Vec<Filter>| FilterList { filters };
    let integer = |n| value(Kind::IntegerValue(n));
    let cats = || equals("tags", text("cat"));
    let colours = InCondition { attribute: "colour".to_owned(), values: vec![text("red"), text("blue"), text("pink")] };
    vec![
        (equals("colour", text("red")), |w| w.colour == "red"),
        (of(Condition::IsIn(colours)), |w| w.colour != "green"),
        // Integers and floats compare by value.
        (range("price", None, Some(Upper::LessThan(integer(5)))), |w| w.price < 5.0),
        (range("stock", Some(Lower::AtLeast(value(Kind::FloatValue(89.5)))), None), |w| w.stock >= 90),
        (of(Condition::Negation(Box::new(in_stock()))), |w| w.stock == 0),
        (of(Condition::AllOf(list(vec![cats(), equals("colour", text("green"))]))), |w| {
            w.tags.contains(&"cat") && w.colour == "green"
        }),
        (of(Condition::AnyOf(list(vec![cats(), in_stock()]))), |w| w.tags.contains(&"cat") || w.stock > 0),
        (equals("colour", text("pink")), |_| false),
        (equals("price", text("5")), |_| false),
    ]
}

fn best(model: &Model, query: &[f32], holds: Meaning, k: usize) -> Vec<String> {
    let score = |w: &Written| w.vector.iter().zip(query).map(|(a, b)| a * b).sum::<f32>();
    let mut all: Vec<_> = model.iter().filter(|(_, w)| holds(w)).map(|(id, w)| (score(w), id)).collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    all.into_iter().take(k).map(|(_, id)| id.clone()).collect()
}

/// Every filter finds what asking each image would find; at `ANY`, many times, so that all replicas are asked.
async fn check(client: &Client, model: &Model, rng: &mut StdRng, consistency: Consistency) -> Result<()> {
    for (filter, holds) in filters() {
        for _ in 0..5 {
            let query = unit_vector(rng, DIMENSION);
            let request = SearchRequest {
                collection: COLLECTION.to_owned(),
                query: Some(Query {
                    target: Some(by_vector(&query)),
                    filter: Some(filter.clone()),
                    ..Default::default()
                }),
                consistency: consistency.into(),
                ..Default::default()
            };
            let found = client.searches().search(request).await?.into_inner();
            let want = best(model, &query, holds, 10);
            ensure!(ids(&found) == want, "{filter:?} at {consistency:?}: {:?}, not {want:?}", ids(&found));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_see_what_was_written() -> Result<()> {
    let mut rng = generator(seed("filters"), 0);
    let cluster = Cluster::start(ClusterOptions::named("filters")).await?;
    let client = cluster.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let mut model: Model = (0..IMAGES).map(|i| (format!("i{i}"), draw(&mut rng))).collect();
    let images: Vec<_> = model.iter().map(|(id, written)| image(id, written)).collect();
    for batch in images.chunks(100) {
        client.store(COLLECTION, batch.to_vec(), PATIENCE).await?;
    }
    check(&client, &model, &mut rng, Consistency::Linearizable).await?;

    // New attributes alone, everything new, and gone: seen by the very next search.
    for i in 0..60 {
        let id = format!("i{}", i * 7);
        let new = draw(&mut rng);
        match i % 3 {
            0 => drop(model.insert(id.clone(), Written { vector: model[&id].vector.clone(), ..new })),
            1 => drop(model.insert(id.clone(), new)),
            _ => drop((model.remove(&id), client.delete(COLLECTION, &[&id]).await?)),
        }
        if let Some(written) = model.get(&id) {
            client.store(COLLECTION, vec![image(&id, written)], PATIENCE).await?;
            let only = equals("colour", text(written.colour));
            let found = client.search_where(COLLECTION, by_vector(&written.vector), 1, Some(only)).await?;
            ensure!(ids(&found) == [id.as_str()], "{id} is not found by its new colour");
        }
    }
    check(&client, &model, &mut rng, Consistency::Linearizable).await?;
    cluster.wait_converged(PATIENCE).await?;
    check(&client, &model, &mut rng, Consistency::Any).await?;

    cluster.kill_all()?;
    (0..cluster.nodes()).try_for_each(|node| cluster.restart(node))?;
    cluster.wait_ready(PATIENCE).await?;
    // First: until then replicas may be equal and not know yet that the last entries are committed.
    check(&client, &model, &mut rng, Consistency::Linearizable).await?;
    cluster.wait_converged(PATIENCE).await?;
    check(&client, &model, &mut rng, Consistency::Any).await?;
    each_query_of_a_batch_has_its_own(&client, &model, &mut rng).await
}

async fn each_query_of_a_batch_has_its_own(client: &Client, model: &Model, rng: &mut StdRng) -> Result<()> {
    let query = unit_vector(rng, DIMENSION);
    let of = |filter| Query { target: Some(by_vector(&query)), k: 5, filter, ..Default::default() };
    let filters = filters();
    let queries = std::iter::once(of(None)).chain(filters.iter().map(|(filter, _)| of(Some(filter.clone()))));
    let request =
        BatchSearchRequest { collection: COLLECTION.to_owned(), queries: queries.collect(), ..Default::default() };
    let answers = client.searches().batch_search(request).await?.into_inner().results;
    let all: fn(&Written) -> bool = |_| true;
    for (holds, answer) in std::iter::once(all).chain(filters.iter().map(|(_, holds)| *holds)).zip(answers) {
        let found = answer.response.unwrap_or_default();
        ensure!(ids(&found) == best(model, &query, holds, 5), "{found:?}");
    }
    Ok(())
}
