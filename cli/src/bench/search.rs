//! `omma bench search`

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use omma_client::proto::{Query, SearchResponse};
use omma_client::{ClientError, Omma, ReadOptions, SearchOptions, query};
use omma_common::limits::{DEFAULT_K, MAX_K, MAX_QUERIES};

use super::args::{DataArgs, LoadArgs, ServerArgs, parse_duration};
use super::data::{Data, Stored, vector_id};
use super::drive::{Run, drive};
use super::matrix::Matrix;
use super::report::{Recall, Report};
use super::schedule::Schedule;
use super::servers::Servers;
use super::truth::Truth;
use crate::commands::Context;
use crate::commands::search::ConsistencyArg;
use crate::exit::CliError;

/// Embeddings fetched in one call.
const FETCH: usize = 200;

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    servers: ServerArgs,
    /// The collection; holds what `omma bench ingest` put there with the same flags.
    #[arg(long, short, value_name = "NAME", default_value = "bench")]
    collection: String,
    /// Hits wanted.
    #[arg(short, default_value_t = DEFAULT_K, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_K)))]
    k: u32,
    /// Queries in each request.
    #[arg(long, value_name = "N", default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=MAX_QUERIES as i64))]
    batch: u32,
    /// How fresh the answers must be.
    #[arg(long, value_enum, default_value_t = ConsistencyArg::Linearizable)]
    consistency: ConsistencyArg,
    /// How long; 10 s if neither this nor --requests is given.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    lasts: Option<Duration>,
    /// How many requests.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    requests: Option<u64>,
    /// Search so long before anything is measured.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Do not compare answers with those of exact search, which is computed here before the load begins.
    #[arg(long)]
    no_recall: bool,
}

/// What the clients share.
struct Searches {
    connections: Vec<Omma>,
    collection: String,
    options: SearchOptions,
    batch: usize,
    queries: Vec<Query>,
    truth: Option<Truth>,
    recalls: Mutex<Recalls>,
}

#[derive(Debug, Default)]
struct Recalls {
    sum: f64,
    worst: Option<f64>,
    answers: u64,
}

pub(crate) async fn run(context: &Context, args: SearchArgs) -> Result<(), CliError> {
    let servers = Servers::new(&args.servers)?;
    let flags = args.data.clone();
    let data = super::blocking(move || flags.load()).await??;
    let searches = Arc::new(searches(context, &args, data).await?);
    let clients = args.load.clients as usize;
    let rate = args.load.rate;
    if !args.warm_up.is_zero() {
        let warm_up = Schedule { rate, operations: None, lasts: Some(args.warm_up) };
        search(warm_up, clients, searches.clone()).await?;
        *searches.recalls.lock().unwrap_or_else(PoisonError::into_inner) = Recalls::default();
    }

    let default = args.requests.is_none().then_some(Duration::from_secs(10));
    let schedule = Schedule { rate, operations: args.requests, lasts: args.lasts.or(default) };
    let (before, own) = (servers.look().await?, super::own_cpu_seconds());
    let run = search(schedule, clients, searches.clone()).await?;
    let report = Report {
        kind: "search",
        collection: args.collection,
        clients,
        rate,
        run,
        settled: None,
        recall: searches.recall(),
        servers: servers.costs(&before, &servers.look().await?),
        own_cpu_seconds: own.zip(super::own_cpu_seconds()).map(|(before, after)| after - before),
    };
    super::show(context, &report)
}

async fn searches(context: &Context, args: &SearchArgs, data: Data) -> Result<Searches, CliError> {
    let (k, wanted) = (args.k, args.data.queries as usize);
    let mut connections = Vec::new();
    for _ in 0..args.load.connections() {
        // What is refused is counted as such, and not tried again.
        connections.push(context.builder().retries(0).connect().await?);
    }
    let (queries, known) = match data.stored {
        Stored::Vectors(stored) => {
            let vectors = (0..data.queries.rows()).map(|i| data.queries.row(i).to_vec());
            let queries = vectors.map(|vector| query::embedding(vector, k)).collect();
            let ids = (0..stored.rows()).map(vector_id).collect();
            (queries, Some((stored, ids, data.queries)))
        }
        Stored::Pictures(pictures) => {
            // Evenly over the folder.
            let step = pictures.len().div_ceil(wanted).max(1);
            let queries = pictures.iter().step_by(step).map(|(_, bytes)| query::picture(bytes.clone(), k)).collect();
            let ids: Vec<String> = pictures.into_iter().map(|(id, _)| id).collect();
            let known = match args.no_recall {
                true => None,
                false => Some(embeddings(&connections[0], &args.collection, ids, step).await?),
            };
            (queries, known)
        }
    };
    let truth = match known.filter(|_| !args.no_recall) {
        Some((stored, ids, queries)) => {
            let found = move || Truth::find(stored, ids.into_iter(), queries, k as usize);
            Some(super::blocking(found).await?)
        }
        None => None,
    };
    let options = SearchOptions { consistency: args.consistency.into(), ..SearchOptions::default() };
    let (collection, recalls) = (args.collection.clone(), Mutex::default());
    Ok(Searches { connections, collection, options, batch: args.batch as usize, queries, truth, recalls })
}

/// The embeddings of the images as the cluster stores them, and of every `step`th, which are searched for.
async fn embeddings(
    omma: &Omma,
    collection: &str,
    ids: Vec<String>,
    step: usize,
) -> Result<(Matrix, Vec<String>, Matrix), CliError> {
    let options = ReadOptions { include_embedding: true, ..ReadOptions::default() };
    let (mut stored, mut queries) = (Matrix::default(), Matrix::default());
    for part in ids.chunks(FETCH) {
        for image in omma.batch_get_images(collection, part.to_vec(), &options).await? {
            let mut values = image.embedding.unwrap_or_default().values;
            stored.dimension = values.len();
            stored.numbers.append(&mut values);
        }
    }
    if stored.rows() < ids.len() {
        return Err(CliError::Usage(format!(
            "{collection} holds {} of the {} pictures: put them there with omma bench ingest, or give --no-recall",
            stored.rows(),
            ids.len()
        )));
    }
    queries.dimension = stored.dimension;
    (0..stored.rows()).step_by(step).for_each(|row| queries.numbers.extend_from_slice(stored.row(row)));
    Ok((stored, ids, queries))
}

async fn search(schedule: Schedule, clients: usize, searches: Arc<Searches>) -> Result<Run, CliError> {
    drive(schedule, clients, move |i, client| {
        let searches = searches.clone();
        async move {
            let omma = &searches.connections[client % searches.connections.len()];
            let first = i as usize * searches.batch;
            let which = (first..first + searches.batch).map(|query| query % searches.queries.len());
            searches.ask(omma, which.collect()).await
        }
    })
    .await
}

impl Searches {
    /// Sends these queries in one request, and returns how many they are.
    async fn ask(&self, omma: &Omma, which: Vec<usize>) -> Result<u64, ClientError> {
        let answers = match which[..] {
            [query] => vec![omma.search(&self.collection, self.queries[query].clone(), &self.options).await?],
            _ => {
                let queries = which.iter().map(|&query| self.queries[query].clone()).collect();
                let answers = omma.batch_search(&self.collection, queries, &self.options).await?;
                answers.into_iter().collect::<Result<Vec<_>, _>>()?
            }
        };
        which.iter().zip(&answers).for_each(|(&query, answer)| self.compare(query, answer));
        Ok(answers.len() as u64)
    }

    fn compare(&self, query: usize, answer: &SearchResponse) {
        let ids = answer.hits.iter().map(|hit| hit.id.as_str());
        let Some(recall) = self.truth.as_ref().and_then(|truth| truth.recall(query, ids)) else { return };
        let mut recalls = self.recalls.lock().unwrap_or_else(PoisonError::into_inner);
        recalls.sum += recall;
        recalls.answers += 1;
        recalls.worst = Some(recalls.worst.map_or(recall, |worst| worst.min(recall)));
    }

    fn recall(&self) -> Option<Recall> {
        let recalls = self.recalls.lock().unwrap_or_else(PoisonError::into_inner);
        let (truth, worst) = (self.truth.as_ref()?, recalls.worst?);
        Some(Recall { k: truth.k, mean: recalls.sum / recalls.answers as f64, worst, answers: recalls.answers })
    }
}
