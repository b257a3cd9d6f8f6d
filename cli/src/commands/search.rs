//! `omma search`

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use omma_client::proto::{Consistency, Filter, Query, SearchResponse, SearchTimings};
use omma_client::{SearchOptions, filter, query};
use omma_common::limits::{DEFAULT_K, MAX_K};

use super::Context;
use crate::args::InCollection;
use crate::exit::CliError;
use crate::json;
use crate::table::{Align, Table};
use crate::text::{duration, proto_duration};

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("target").required(true), after_long_help = filters())]
pub(crate) struct SearchArgs {
    /// A picture: JPEG, PNG, GIF, WebP, BMP or TIFF.
    #[arg(group = "target")]
    picture: Option<PathBuf>,
    /// The neighbours of a stored image.
    #[arg(long, group = "target", value_name = "ID")]
    id: Option<String>,
    /// The neighbours of an embedding: a file of numbers, as a JSON array or separated by spaces, commas or lines.
    #[arg(long, group = "target", value_name = "FILE")]
    embedding: Option<PathBuf>,
    #[command(flatten)]
    within: InCollection,
    /// Hits wanted.
    #[arg(short, default_value_t = DEFAULT_K, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_K)))]
    k: u32,
    /// Leave out hits below this score, -1 to 1.
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true, value_parser = parse_score)]
    min_score: Option<f32>,
    /// Only images whose attributes satisfy this filter, such as "colour = 'red' and price < 10"; see below.
    #[arg(long = "where", value_name = "FILTER", value_parser = filter::parse)]
    filter: Option<Filter>,
    /// How fresh the answer must be.
    #[arg(long, value_enum, default_value_t = ConsistencyArg::Linearizable)]
    consistency: ConsistencyArg,
    /// Accept an answer that some shard groups are missing from.
    #[arg(long)]
    allow_partial: bool,
}

/// As the protocol names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConsistencyArg {
    /// Whatever any replica has applied; answers while a group has no leader.
    Any,
    /// Sees the writes of this session: a single command has none, so that this is as `any`.
    Session,
    /// Sees every write that was acknowledged before.
    Linearizable,
}

impl From<ConsistencyArg> for Consistency {
    fn from(arg: ConsistencyArg) -> Self {
        match arg {
            ConsistencyArg::Any => Self::Any,
            ConsistencyArg::Session => Self::Session,
            ConsistencyArg::Linearizable => Self::Linearizable,
        }
    }
}

fn filters() -> String {
    format!(
        "Filters (--where):\n{}\n\nNumbers compare by value, 3 with 3.0. A list of strings equals each string in it. What is \
         missing, or of\nanother type, satisfies no comparison, so that \"a != 1\" finds images without a, too.",
        filter::GRAMMAR
    )
}

pub(crate) async fn run(context: &Context, args: SearchArgs) -> Result<(), CliError> {
    let query = Query { min_score: args.min_score, filter: args.filter.clone(), ..read_query(&args).await? };
    let omma = context.connect().await?;
    let options = SearchOptions {
        consistency: args.consistency.into(),
        allow_partial: args.allow_partial,
        include_attributes: true,
    };
    let answer = omma.search(&args.within.collection, query, &options).await?;
    context.output.result(|| json::search_response(&answer), || human(&answer))
}

async fn read_query(args: &SearchArgs) -> Result<Query, CliError> {
    if let Some(path) = &args.picture {
        let bytes = tokio::fs::read(path).await.map_err(CliError::reading(path))?;
        return Ok(query::picture(bytes, args.k));
    }
    if let Some(path) = &args.embedding {
        let text = tokio::fs::read_to_string(path).await.map_err(CliError::reading(path))?;
        return Ok(query::embedding(parse_embedding(&text, path)?, args.k));
    }
    Ok(query::stored(args.id.clone().unwrap_or_default(), args.k))
}

/// Numbers in a JSON array, or between spaces, commas and line ends.
fn parse_embedding(text: &str, path: &Path) -> Result<Vec<f32>, CliError> {
    let number = |word: &str| {
        word.parse::<f32>().map_err(|_| CliError::Usage(format!("{}: {word:?} is no number", path.display())))
    };
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']');
    let words = inner.split(|c: char| c.is_whitespace() || c == ',').filter(|word| !word.is_empty());
    let values = words.map(number).collect::<Result<Vec<f32>, _>>()?;
    if values.is_empty() { Err(CliError::Usage(format!("{} holds no numbers", path.display()))) } else { Ok(values) }
}

fn parse_score(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(score) if (-1.0..=1.0).contains(&score) => Ok(score),
        _ => Err("must be a number from -1 to 1".into()),
    }
}

fn human(answer: &SearchResponse) -> String {
    let mut out = if answer.hits.is_empty() { "No image is that near.\n".to_owned() } else { hits(answer) };
    if let Some(timings) = &answer.timings {
        out.push_str(&format!("\n{}\n", where_time_went(timings)));
    }
    if let Some(coverage) = answer.coverage.as_ref().filter(|c| c.groups_answered < c.groups_asked) {
        let (answered, asked) = (coverage.groups_answered, coverage.groups_asked);
        out.push_str(&format!("Partial: {answered} of {asked} shard groups answered.\n"));
        for failure in &coverage.failures {
            out.push_str(&format!("  group {}: {}\n", failure.group_id, failure.message));
        }
    }
    out
}

fn hits(answer: &SearchResponse) -> String {
    let with_attributes = answer.hits.iter().any(|hit| !hit.attributes.is_empty());
    let mut columns = vec![("rank", Align::Right), ("score", Align::Right), ("id", Align::Left)];
    if with_attributes {
        columns.push(("attributes", Align::Left));
    }
    let mut table = Table::new(&columns);
    for (i, hit) in answer.hits.iter().enumerate() {
        let attributes = json::hit(hit)["attributes"].to_string();
        let cells = [(i + 1).to_string(), format!("{:.4}", hit.score), hit.id.clone(), attributes];
        table.row(cells.into_iter().take(columns.len()));
    }
    table.render()
}

/// One line: the total, then its parts that took time.
pub(crate) fn where_time_went(timings: &SearchTimings) -> String {
    let of = |d: &Option<prost_types::Duration>| proto_duration(d.as_ref());
    let part = |name: &str, d: &Option<prost_types::Duration>| {
        let took = of(d);
        (!took.is_zero()).then(|| format!("{name} {}", duration(took)))
    };
    let inside: Vec<String> =
        [part("decode", &timings.decode), part("wait", &timings.encode_queue), part("model", &timings.inference)]
            .into_iter()
            .flatten()
            .collect();
    let encode = part("encode", &timings.encode).map(|text| match inside.as_slice() {
        [] => text,
        parts => format!("{text} ({})", parts.join(", ")),
    });
    let parts: Vec<String> =
        [encode, part("shard groups", &timings.fan_out), part("merge", &timings.merge)].into_iter().flatten().collect();
    match parts.as_slice() {
        [] => format!("Took {}.", duration(of(&timings.total))),
        parts => format!("Took {}: {}.", duration(of(&timings.total)), parts.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embeddings_are_read_in_either_form() {
        let path = Path::new("e.json");
        for text in ["[1, -2.5,3e-1]", "1 -2.5 0.3", "1\n-2.5\n0.3\n", " [ 1,-2.5 , 0.3 ] "] {
            assert_eq!(parse_embedding(text, path).unwrap(), [1.0, -2.5, 0.3], "{text:?}");
        }
        for bad in ["", "[]", "1 two 3"] {
            assert!(parse_embedding(bad, path).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_what_took_time_is_named() {
        let ms = |n: i32| Some(prost_types::Duration { seconds: 0, nanos: n * 1_000_000 });
        let timings = SearchTimings {
            total: ms(12),
            encode: ms(10),
            inference: ms(9),
            fan_out: ms(2),
            ..SearchTimings::default()
        };
        let text = where_time_went(&timings);
        assert_eq!(text, "Took 12.0 ms: encode 10.0 ms (model 9.00 ms), shard groups 2.00 ms.");
    }
}
