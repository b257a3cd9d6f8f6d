//! What must hold when a storm is over.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use futures::{StreamExt, TryStreamExt};
use omma_proto::v1::{BatchGetImagesRequest, Consistency, Query, SearchRequest};

use super::load::{Seen, hits, search};
use super::values;
use crate::client::{Client, by_vector, retrying, vector_image};
use crate::history::model::{Answer, Call};
use crate::history::{Operation, Outcome};
use crate::vectors::{generator, unit_vector};

/// For a call, now that all is well.
const PATIENCE: Duration = Duration::from_secs(20);
/// Ids of one read.
const BATCH: usize = 500;
/// Images that are looked for at level ANY, of each kind.
const SAMPLE: usize = 100;
const K: u32 = 10;
/// The generator's parts for recall.
const BASE: u64 = 0xBA5E_0000_0000_0000;
const QUERY: u64 = 0x00E5_0000_0000_0000;

/// Reads every image of the history, linearizably, as its last operation; returns the values of those that are there.
///
/// # Errors
/// If a read fails, or an image is torn.
pub async fn read_all(client: &Client, collection: &str, seen: &Seen) -> Result<BTreeMap<String, u64>> {
    let mut present = BTreeMap::new();
    for ids in seen.history.images().chunks(BATCH) {
        let request = BatchGetImagesRequest {
            collection: collection.to_owned(),
            ids: ids.to_vec(),
            include_embedding: true,
            ..Default::default()
        };
        let start = seen.history.now();
        let answer = retrying("BatchGetImages", PATIENCE, || {
            let (mut client, request) = (client.images(), request.clone());
            async move { client.batch_get_images(request).await }
        });
        let images = answer.await?.into_inner().images;
        let end = seen.history.now();
        for image in &images {
            let value = values::of_image(seen.seed, image).map_err(|torn| anyhow!(torn))?;
            present.insert(image.id.clone(), value);
        }
        for id in ids {
            let answer = Answer::Got(present.get(id).copied());
            let outcome = Outcome::Done { end, answer };
            seen.history.add(id, Operation { client: usize::MAX, call: Call::Get, start, outcome });
        }
    }
    Ok(present)
}

/// Now that all replicas are equal, a search at level ANY, whoever answers it, finds what is there and nothing that is
/// not.
///
/// # Errors
/// With the first image that is missing or should be.
pub async fn any_replica_agrees(
    client: &Client,
    collection: &str,
    seen: &Seen,
    present: &BTreeMap<String, u64>,
) -> Result<()> {
    let gone: Vec<_> = seen.last_put().into_iter().filter(|(id, _)| !present.contains_key(id)).collect();
    let sample = |n: usize| n.div_ceil(SAMPLE).max(1);
    let there = present.iter().map(|(id, value)| (id.clone(), *value)).step_by(sample(present.len()));
    let all = there.chain(gone.iter().cloned().step_by(sample(gone.len())));
    for (id, value) in all {
        let request = search(seen, value, Consistency::Any, Vec::new());
        let answer = retrying("Search", PATIENCE, || {
            let (mut client, request) = (client.searches(), request.clone());
            async move { client.search(request).await }
        });
        let found = hits(seen, value, answer.await?.get_ref());
        let expected = present.get(&id).copied();
        let hit = found.iter().find(|(hit, _)| *hit == id).map(|(_, value)| *value);
        ensure!(hit == expected, "{collection}: a search at level ANY hits {id} with {hit:?}, it is {expected:?}");
    }
    Ok(())
}

/// Images that a storm does not touch, and queries whose nearest neighbours are known by brute force.
#[derive(Debug)]
pub struct Recall {
    client: Client,
    collection: String,
    seed: u64,
    base: Vec<Vec<f32>>,
}

impl Recall {
    /// How many images it keeps.
    pub const IMAGES: usize = 1500;
    const QUERIES: u64 = 200;

    /// Puts the images.
    ///
    /// # Errors
    /// If they cannot be put.
    pub async fn prepare(client: &Client, collection: &str, seed: u64) -> Result<Self> {
        let vector = |i: usize| unit_vector(&mut generator(seed, BASE + i as u64), values::DIMENSION);
        let base: Vec<Vec<f32>> = (0..Self::IMAGES).map(vector).collect();
        let images: Vec<_> = base.iter().enumerate().map(|(i, v)| vector_image(&name(i), v.clone())).collect();
        for batch in images.chunks(250) {
            client.store(collection, batch.to_vec(), PATIENCE).await?;
        }
        Ok(Self { client: client.clone(), collection: collection.to_owned(), seed, base })
    }

    /// Recall@10 of all queries, against an exact search of the images and of the `others` that are there as well.
    ///
    /// # Errors
    /// If a search fails.
    pub async fn measure<'o>(&self, others: impl IntoIterator<Item = (&'o String, &'o u64)>) -> Result<f64> {
        let mut all: Vec<(String, Vec<f32>)> =
            self.base.iter().enumerate().map(|(i, vector)| (name(i), vector.clone())).collect();
        all.extend(others.into_iter().map(|(id, value)| (id.clone(), values::vector(self.seed, *value))));
        let all = &all;
        let found = futures::stream::iter(0..Self::QUERIES)
            .map(|query| async move {
                let query = unit_vector(&mut generator(self.seed, QUERY + query), values::DIMENSION);
                let exact = nearest(all, &query);
                let hits = self.search(query).await?;
                anyhow::Ok(hits.iter().filter(|hit| exact.contains(&hit.as_str())).count())
            })
            .buffer_unordered(4)
            .try_collect::<Vec<usize>>()
            .await?;
        Ok(found.iter().sum::<usize>() as f64 / (Self::QUERIES as f64 * f64::from(K)))
    }

    async fn search(&self, query: Vec<f32>) -> Result<Vec<String>> {
        let request = SearchRequest {
            collection: self.collection.clone(),
            query: Some(Query { target: Some(by_vector(&query)), k: K, min_score: None, filter: None }),
            ..Default::default()
        };
        let answer = retrying("Search", PATIENCE, || {
            let (mut client, request) = (self.client.searches(), request.clone());
            async move { client.search(request).await }
        });
        let hits = answer.await.context("for recall")?.into_inner().hits;
        Ok(hits.into_iter().map(|hit| hit.id).collect())
    }
}

fn name(i: usize) -> String {
    format!("base-{i}")
}

/// Ids of the nearest, by looking at all.
fn nearest<'a>(all: &'a [(String, Vec<f32>)], query: &[f32]) -> Vec<&'a str> {
    let mut scored: Vec<(f32, &str)> = all.iter().map(|(id, v)| (values::dot(v, query), id.as_str())).collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.truncate(K as usize);
    scored.into_iter().map(|(_, id)| id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_come_first() {
        let all: Vec<_> = (0..20).map(|i| (name(i), vec![i as f32])).collect();
        assert_eq!(nearest(&all, &[1.0])[..2], ["base-19", "base-18"]);
        assert_eq!(nearest(&all, &[-1.0])[0], "base-0");
        assert_eq!(nearest(&all, &[1.0]).len(), 10);
    }
}
