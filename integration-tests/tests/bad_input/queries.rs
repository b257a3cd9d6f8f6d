//! Queries and their filters.

use anyhow::{Context, Result};
use omma_common::error::Reason;
use omma_integration_tests::client::by_vector;
use omma_integration_tests::refusal::Refusal;
use omma_proto::v1::query::Target;
use omma_proto::v1::*;

use super::cluster;

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
