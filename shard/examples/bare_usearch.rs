//! The graph library without anything around it, as the measure of what Omma adds: `bare_usearch BASE.fvecs
//! QUERIES.fvecs [--kind f32|f16|i8] [--k N] [--ef N,N,…] [--threads N] [--seconds N]`, vectors of unit length.
//!
//! Inserts all of BASE as Omma's graph does (same M, efConstruction, kind and metric), searches for QUERIES with each ef
//! and prints JSON: CPU seconds of the insertion, memory, and for each ef recall against exact search, CPU milliseconds
//! of a query on one thread, and queries a second on so many.

use std::fs;
use std::io::{self, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use omma_common::topk::TopK;
use omma_shard::index::{IndexConfig, dot};
use serde_json::{Value, json};
use usearch::{Index, IndexOptions, MetricKind, ScalarKind};

type Failure = Box<dyn std::error::Error>;

struct Arguments {
    base: Vectors,
    queries: Vectors,
    kind: ScalarKind,
    k: usize,
    ef: Vec<usize>,
    threads: usize,
    lasts: Duration,
}

struct Vectors {
    dimension: usize,
    numbers: Vec<f32>,
}

impl Vectors {
    fn read(path: &str) -> Result<Self, Failure> {
        let bytes = fs::read(path)?;
        let head = bytes.first_chunk::<4>().ok_or("an empty file")?;
        let dimension = usize::try_from(i32::from_le_bytes(*head))?;
        let rows = bytes.chunks_exact(4 + 4 * dimension);
        if dimension == 0 || !rows.remainder().is_empty() {
            return Err(format!("{path} is no .fvecs file").into());
        }
        let number = |b: &[u8; 4]| f32::from_le_bytes(*b);
        Ok(Self { dimension, numbers: rows.flat_map(|row| row[4..].as_chunks::<4>().0.iter().map(number)).collect() })
    }

    fn rows(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.numbers.chunks_exact(self.dimension)
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.numbers[i * self.dimension..][..self.dimension]
    }
}

fn main() -> Result<(), Failure> {
    let arguments = arguments()?;
    let config = IndexConfig::new(arguments.base.dimension);
    let index = Index::new(&IndexOptions {
        dimensions: config.dimension,
        metric: MetricKind::IP,
        quantization: arguments.kind,
        connectivity: config.connectivity,
        expansion_add: config.expansion_add,
        expansion_search: config.expansion_search,
        multi: false,
    })?;
    let count = arguments.base.rows().len();
    index.reserve_capacity_and_threads(count, arguments.threads.max(1))?;
    let (cpu, begin) = (cpu_seconds()?, Instant::now());
    insert(&index, &arguments)?;
    let (added, took) = (cpu_seconds()? - cpu, begin.elapsed().as_secs_f64());
    let truth = truth(&arguments);
    let searches: Result<Vec<Value>, Failure> =
        arguments.ef.iter().map(|&ef| measure(&index, &arguments, &truth, ef)).collect();
    let report = json!({
        "vectors": count, "dimension": config.dimension, "threads": arguments.threads,
        "insert_cpu_seconds": added, "insert_seconds": took,
        "memory_bytes": index.memory_usage(), "serialized_bytes": index.serialized_length(),
        "searches": searches?,
    });
    Ok(writeln!(io::stdout(), "{report:#}")?)
}

fn insert(index: &Index, arguments: &Arguments) -> Result<(), Failure> {
    let (next, count) = (AtomicUsize::new(0), arguments.base.rows().len());
    let work = || -> Result<(), String> {
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return Ok(());
            }
            index.add(i as u64, arguments.base.row(i)).map_err(|e| e.to_string())?;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..arguments.threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| "an insertion panicked".to_owned())?)
    })?;
    Ok(())
}

/// The score of the `k`-th best of each query.
fn truth(arguments: &Arguments) -> Vec<f32> {
    let worst = |query: &[f32]| {
        let mut best = TopK::new(arguments.k);
        arguments.base.rows().enumerate().for_each(|(i, row)| best.push((i, dot(query, row))));
        best.into_sorted().last().map_or(f32::NEG_INFINITY, |(_, score)| *score)
    };
    arguments.queries.rows().map(worst).collect()
}

fn measure(index: &Index, arguments: &Arguments, truth: &[f32], ef: usize) -> Result<Value, Failure> {
    const EQUAL: f32 = 1e-5;
    index.change_expansion_search(ef);
    let mut found = 0;
    for (query, worst) in arguments.queries.rows().zip(truth) {
        let keys = index.search(query, arguments.k)?.keys;
        found += keys.iter().filter(|&&key| dot(query, arguments.base.row(key as usize)) >= worst - EQUAL).count();
    }
    let (cpu, one) = (cpu_seconds()?, load(index, arguments, 1)?);
    let cpu_each = (cpu_seconds()? - cpu) * 1e3 / one.max(1) as f64;
    let many = load(index, arguments, arguments.threads)?;
    Ok(json!({
        "ef": ef,
        "recall": found as f64 / (truth.len() * arguments.k) as f64,
        "cpu_milliseconds_each": cpu_each,
        "queries_per_second": many as f64 / arguments.lasts.as_secs_f64(),
    }))
}

/// Queries answered in the time given.
fn load(index: &Index, arguments: &Arguments, threads: usize) -> Result<usize, Failure> {
    let (next, until) = (AtomicUsize::new(0), Instant::now() + arguments.lasts);
    let work = || -> Result<usize, String> {
        let mut answered = 0;
        while Instant::now() < until {
            let i = next.fetch_add(1, Ordering::Relaxed) % arguments.queries.rows().len();
            index.search(arguments.queries.row(i), arguments.k).map_err(|e| e.to_string())?;
            answered += 1;
        }
        Ok(answered)
    };
    let answered: Result<Vec<usize>, String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().map_err(|_| "a search panicked".to_owned())?).collect()
    });
    Ok(answered?.iter().sum())
}

/// Of this process, user and system.
fn cpu_seconds() -> Result<f64, Failure> {
    Ok(omma_common::metrics::taken(std::process::id())?.cpu_seconds)
}

fn arguments() -> Result<Arguments, Failure> {
    let all: Vec<String> = std::env::args().skip(1).collect();
    let [base, queries, rest @ ..] = all.as_slice() else {
        return Err("usage: bare_usearch BASE.fvecs QUERIES.fvecs [--kind K] [--k N] [--ef N,…] [--threads N]".into());
    };
    let (base, queries) = (Vectors::read(base)?, Vectors::read(queries)?);
    if base.dimension != queries.dimension {
        return Err("the two files have vectors of different dimensions".into());
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let lasts = Duration::from_secs(5);
    let mut read = Arguments { base, queries, kind: ScalarKind::F16, k: 10, ef: vec![128], threads: cores, lasts };
    for pair in rest.chunks(2) {
        let [flag, value] = pair else { return Err(format!("{} needs a value", pair[0]).into()) };
        match (flag.as_str(), value.as_str()) {
            ("--kind", "f32") => read.kind = ScalarKind::F32,
            ("--kind", "f16") => read.kind = ScalarKind::F16,
            ("--kind", "i8") => read.kind = ScalarKind::I8,
            ("--k", k) => read.k = k.parse()?,
            ("--ef", list) => read.ef = list.split(',').map(str::parse).collect::<Result<_, _>>()?,
            ("--threads", n) => read.threads = n.parse()?,
            ("--seconds", n) => read.lasts = Duration::from_secs(n.parse()?),
            (flag, value) => return Err(format!("{flag} {value} is not known").into()),
        }
    }
    Ok(read)
}
