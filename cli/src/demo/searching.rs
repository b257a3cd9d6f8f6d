//! Searches with altered copies of stored pictures.

use std::collections::HashMap;
use std::path::PathBuf;

use omma_client::proto::SearchResponse;
use omma_client::{Omma, SearchOptions, query};
use serde_json::{Value, json};

use super::sheet::{Row, Tile};
use super::transforms::{Transform, open, thumbnail};
use crate::commands::search::where_time_went;
use crate::exit::CliError;
use crate::indexing::Found;
use crate::json;
use crate::output::{Output, note};
use crate::table::{Align, Table};
use crate::text::{duration, proto_duration};

/// Hits shown for each query.
const K: u32 = 5;

/// What the searches gave.
#[derive(Debug, Default)]
pub(super) struct Searched {
    pub(super) rows: Vec<Row>,
    pub(super) json: Vec<Value>,
    pub(super) first: usize,
}

/// Makes a query of each kind, each from another stored picture, and prints what is found.
pub(super) async fn search_copies(
    omma: &Omma,
    collection: &str,
    stored: &[Found],
    output: Output,
) -> Result<Searched, CliError> {
    let paths: HashMap<String, PathBuf> = stored.iter().map(|f| (f.id.clone(), f.path.clone())).collect();
    let mut searched = Searched::default();
    let mut picked = spread(stored.len(), Transform::ALL.len()).into_iter();
    for transform in Transform::ALL {
        let Some(original) = picked.next().and_then(|i| stored.get(i)) else { break };
        let Some((query, query_thumbnail)) = prepare(original, transform).await else {
            note(format!("omma: {} could not be altered for a query; skipped", original.id));
            continue;
        };
        let answer = omma.search(collection, query::picture(query, K), &SearchOptions::default()).await?;
        let rank = answer.hits.iter().position(|hit| hit.id == original.id).map(|i| i + 1);
        searched.first += usize::from(rank == Some(1));
        output.say(describe(original, transform, rank, &answer))?;
        searched.json.push(json!({
            "original": original.id,
            "transform": transform.label(),
            "rank": rank,
            "response": json::search_response(&answer),
        }));
        searched.rows.push(Row {
            label: transform.label().into(),
            original: original.id.clone(),
            thumbnail: query_thumbnail,
            timings: answer.timings.as_ref().map(where_time_went).unwrap_or_default(),
            hits: tiles(&answer, &original.id, &paths).await,
        });
    }
    Ok(searched)
}

/// Up to `wanted` of `count` places, evenly spread.
fn spread(count: usize, wanted: usize) -> Vec<usize> {
    let n = wanted.min(count);
    (0..n).map(|i| (2 * i + 1) * count / (2 * n)).collect()
}

/// The altered picture as a file, and a thumbnail of it.
async fn prepare(original: &Found, transform: Transform) -> Option<(Vec<u8>, Vec<u8>)> {
    let path = original.path.clone();
    let altering = tokio::task::spawn_blocking(move || {
        let altered = transform.encode(&open(&path)?)?;
        let small = thumbnail(&image::load_from_memory(&altered)?)?;
        Ok::<_, image::ImageError>((altered, small))
    });
    altering.await.ok()?.ok()
}

async fn tiles(answer: &SearchResponse, original: &str, paths: &HashMap<String, PathBuf>) -> Vec<Tile> {
    let mut tiles = Vec::new();
    for hit in &answer.hits {
        let path = paths.get(&hit.id).cloned();
        let reading = tokio::task::spawn_blocking(move || thumbnail(&open(&path?).ok()?).ok());
        tiles.push(Tile {
            id: hit.id.clone(),
            score: hit.score,
            thumbnail: reading.await.ok().flatten(),
            is_original: hit.id == original,
        });
    }
    tiles
}

fn describe(original: &Found, transform: Transform, rank: Option<usize>, answer: &SearchResponse) -> String {
    let total = proto_duration(answer.timings.as_ref().and_then(|t| t.total.as_ref()));
    let verdict = match rank {
        Some(1) => format!("found at rank 1 in {}", duration(total)),
        Some(rank) => format!("found at rank {rank} in {}", duration(total)),
        None => format!("not among the first {K}, in {}", duration(total)),
    };
    let mut table = Table::new(&[("  rank", Align::Right), ("score", Align::Right), ("id", Align::Left)]);
    for (i, hit) in answer.hits.iter().enumerate() {
        table.row([(i + 1).to_string(), format!("{:.4}", hit.score), hit.id.clone()]);
    }
    let timings = answer.timings.as_ref().map(where_time_went).unwrap_or_default();
    format!("\n{}, {}: {verdict}\n{}  {timings}", original.id, transform.label(), table.render())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_come_from_all_over() {
        assert_eq!(spread(100, 4), [12, 37, 62, 87]);
        assert_eq!(spread(2, 8), [0, 1]);
        assert!(spread(0, 8).is_empty());
        for count in 1..50 {
            let all = spread(count, 8);
            assert!(all.windows(2).all(|w| w[0] < w[1]) && all.iter().all(|&i| i < count), "{count}");
        }
    }
}
