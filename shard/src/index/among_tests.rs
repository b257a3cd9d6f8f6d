//! Recall and cost of searches among some of the keys: chosen at random, or so that they lie far from the query.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use omma_proto::v1::attribute_value::Kind;
use omma_proto::v1::filter::Condition;
use omma_proto::v1::range_condition::Upper;
use omma_proto::v1::{AttributeValue, Filter, RangeCondition};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;

use super::among::{Way, way};
use super::generation::Generation;
use super::suite::{clustered, keyed};
use super::*;
use crate::attributes::{AttributeIndex, Selection};

const K: usize = 10;
const SHARES: [f64; 7] = [0.9, 0.5, 0.2, 0.1, 0.05, 0.01, 0.001];

/// Vectors in a graph, and queries.
struct Setting {
    vectors: Vec<Vec<f32>>,
    queries: Vec<Vec<f32>>,
    generation: Generation,
    /// What [`LiveIndex`] asks a graph for.
    wanted: usize,
}

impl Setting {
    fn new(storage: Storage, (count, dimension): (usize, usize), clusters: usize, queries: usize) -> Self {
        let mut vectors = clustered(&mut SmallRng::seed_from_u64(5), count + queries, dimension, clusters);
        let queries = vectors.split_off(count);
        let generation = Generation::new(IndexConfig { storage, ..IndexConfig::new(dimension) }).unwrap();
        keyed(&vectors).chunks(512).for_each(|chunk| generation.absorb(chunk).unwrap());
        Self { vectors, queries, generation, wanted: K + storage.spare(K, DEFAULT_EXPANSION_SEARCH) }
    }

    /// The first `share` of the vectors in `order`, as a filter selects them.
    fn selection(&self, order: &[usize], share: f64) -> Selection {
        let mut index = AttributeIndex::default();
        let mut places = vec![0; order.len()];
        (0..).zip(order).for_each(|(place, i)| places[*i] = place);
        for ((key, _), place) in keyed(&self.vectors).into_iter().zip(places) {
            let value = AttributeValue { kind: Some(Kind::IntegerValue(place)) };
            index.insert(key, &[("place".to_owned(), value)].into());
        }
        let count = (order.len() as f64 * share).round() as i64;
        let upper = Some(Upper::LessThan(AttributeValue { kind: Some(Kind::IntegerValue(count)) }));
        let range = RangeCondition { attribute: "place".into(), lower: None, upper };
        let selection = index.select(&Filter { condition: Some(Condition::Range(range)) });
        assert_eq!(selection.len(), count as usize);
        selection
    }

    fn at_random(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.vectors.len()).collect();
        order.shuffle(&mut SmallRng::seed_from_u64(6));
        order
    }

    /// The farthest from the query first.
    fn farthest_first(&self, query: &[f32]) -> Vec<usize> {
        let mut order: Vec<(usize, f32)> = self.vectors.iter().map(|v| dot(query, v)).enumerate().collect();
        order.sort_by(|a, b| a.1.total_cmp(&b.1));
        order.into_iter().map(|(i, _)| i).collect()
    }

    /// The share of the exact best that were found.
    fn recall(&self, query: &[f32], among: &dyn Among, found: &[Candidate]) -> f64 {
        let mut exact: Vec<(u64, f32)> = keyed(&self.vectors)
            .into_iter()
            .filter(|(key, _)| among.contains(*key))
            .map(|(key, v)| (key, dot(query, v)))
            .collect();
        exact.sort_by(|a, b| b.1.total_cmp(&a.1));
        exact.truncate(K);
        exact.iter().filter(|(key, _)| found.iter().any(|hit| hit.key == *key)).count() as f64
            / exact.len().max(1) as f64
    }
}

fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

#[test]
fn recall_does_not_fall_however_few_or_far_the_allowed_are() {
    holds_its_recall(Setting::new(Storage::F16, (10_000, 24), 40, 40), 0.98);
    // Far from the query hundreds differ by less than eight bits can tell.
    holds_its_recall(Setting::new(Storage::I8, (10_000, 128), 40, 40), 0.92);
}

/// `floor`: of the searches among the farthest.
fn holds_its_recall(setting: Setting, floor: f64) {
    let wanted = setting.wanted;
    let found = |query: &[f32], selection: &Selection| {
        let hits = setting.generation.search(query, wanted, Some(selection)).unwrap();
        assert!(hits.iter().all(|hit| selection.contains(hit.key)));
        // What lies beside the graph may come on top.
        assert!(hits.len() >= wanted.min(selection.len()));
        setting.recall(query, selection, &hits)
    };
    assert!(
        matches!(way(5_000, 10_000, 128), Way::Graph { .. }) && way(2_000, 10_000, 128) == Way::Scan,
        "both ways are taken"
    );
    let order = setting.at_random();
    for share in SHARES {
        let selection = setting.selection(&order, share);
        let recalls: Vec<f64> = setting.queries.iter().map(|query| found(query, &selection)).collect();
        assert!(mean(&recalls) >= 0.98, "{share}: {}", mean(&recalls));
    }
    for share in SHARES {
        let few = setting.queries.iter().take(6);
        let recalls: Vec<f64> =
            few.map(|query| found(query, &setting.selection(&setting.farthest_first(query), share))).collect();
        assert!(mean(&recalls) >= floor, "{share}, far away: {}", mean(&recalls));
    }
    let none = setting.selection(&order, 0.0);
    assert!(setting.generation.search(&setting.queries[0], wanted, Some(&none)).unwrap().is_empty());
}

/// Processor time of this thread, which a busy machine does not stretch.
fn cpu_time() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default())
}

fn timed(queries: &[Vec<f32>], mut search: impl FnMut(&[f32]) -> Vec<Candidate>) -> (f64, Vec<Vec<Candidate>>) {
    let started = cpu_time();
    let found = queries.iter().map(|query| search(query)).collect();
    ((cpu_time() - started).as_secs_f64() * 1e3 / queries.len() as f64, found)
}

/// The table of `docs/performance.md`. Size and dimension: `OMMA_MEASURE=100000x256`.
#[test]
#[ignore = "measures, for minutes"]
fn measure_searches_among_some() {
    let size = std::env::var("OMMA_MEASURE").unwrap_or_else(|_| "30000x256".to_owned());
    let (count, dimension) = size.split_once('x').unwrap();
    let of = (count.parse().unwrap(), dimension.parse().unwrap());
    let setting = Setting::new(Storage::for_dimension(of.1), of, 300, 200);
    let wanted = setting.wanted;
    let (free, found) = timed(&setting.queries, |q| setting.generation.search(q, wanted, None).unwrap());
    let all = setting.selection(&setting.at_random(), 1.0);
    let recalls: Vec<f64> = setting.queries.iter().zip(&found).map(|(q, hits)| setting.recall(q, &all, hits)).collect();
    println!("{size}: without a filter {free:.3} ms, recall@{K} {:.4}", mean(&recalls));
    println!("| allowed | scan ms | graph ms | refused | chosen | chosen ms | recall: graph | chosen |");
    for share in SHARES {
        let selection = setting.selection(&setting.at_random(), share);
        row(&setting, &format!("{:.1} %, at random", share * 100.0), &setting.queries, &|_| None, &selection);
    }
    for share in SHARES {
        let far: Vec<Selection> =
            setting.queries.iter().take(20).map(|q| setting.selection(&setting.farthest_first(q), share)).collect();
        let of = |query: &[f32]| setting.queries.iter().position(|q| q == query).map(|i| &far[i]);
        row(&setting, &format!("{:.1} %, the farthest", share * 100.0), &setting.queries[..20], &of, &far[0]);
    }
}

fn row<'a>(
    setting: &Setting,
    name: &str,
    queries: &[Vec<f32>],
    of: &dyn Fn(&[f32]) -> Option<&'a Selection>,
    same: &'a Selection,
) {
    let (generation, wanted) = (&setting.generation, setting.wanted);
    let selected = |q: &[f32]| of(q).unwrap_or(same);
    let (scan, _) = timed(queries, |q| {
        generation.graph.scan(q, wanted * generation.graph.scanned(), &mut selected(q).keys()).unwrap()
    });
    let refused = AtomicUsize::new(0);
    let (walk, walked) = timed(queries, |q| {
        let among = selected(q);
        let allow = |key| among.contains(key) || refused.fetch_add(1, Ordering::Relaxed) == usize::MAX;
        generation.walk(q, wanted, &allow, usize::MAX).unwrap().unwrap()
    });
    let refused = refused.into_inner() / queries.len();
    let (chosen, found) = timed(queries, |q| generation.search(q, wanted, Some(selected(q))).unwrap());
    let recall = |all: &[Vec<Candidate>]| {
        let each = queries.iter().zip(all).map(|(q, hits)| setting.recall(q, selected(q), hits));
        mean(&each.collect::<Vec<_>>())
    };
    let way = match way(same.len(), generation.graph.len(), 128) {
        Way::Scan => "scan",
        Way::Graph { .. } => "graph",
    };
    println!(
        "| {name} | {scan:.3} | {walk:.3} | {refused} | {way} | {chosen:.3} | {:.4} | {:.4} |",
        recall(&walked),
        recall(&found)
    );
}
