//! `omma bench ingest`

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use futures::StreamExt;
use omma_client::proto::{GetClusterStatusResponse, NewImage, Quantization, VectorSpace};
use omma_client::{ClientError, CollectionOptions, IngestOptions, Omma};
use omma_common::error::Reason;
use omma_common::limits::MAX_PUT_IMAGES;

use super::args::{DataArgs, LoadArgs, ServerArgs, parse_duration};
use super::data::Stored;
use super::drive::{Run, drive};
use super::report::Report;
use super::schedule::Schedule;
use super::servers::Servers;
use super::tally::Tally;
use crate::commands::Context;
use crate::commands::collection::QuantizationArg;
use crate::exit::CliError;

/// Names the vector space of collections that are made here.
const VECTOR_SPACE: &str = "bench";
const SETTLE_POLL: Duration = Duration::from_millis(200);
/// How long a stream waits for room: a cluster whose tails are full refuses images until its graphs have caught up.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    load: LoadArgs,
    #[command(flatten)]
    servers: ServerArgs,
    /// The collection; created if it is missing.
    #[arg(long, short, value_name = "NAME", default_value = "bench")]
    collection: String,
    /// How the graphs of a collection that is created keep the numbers.
    #[arg(long, value_enum, value_name = "KIND")]
    quantization: Option<QuantizationArg>,
    /// Images in each request, each client having one request under way. Left out: each client has a stream, with up to
    /// --window images unanswered.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_PUT_IMAGES as i64))]
    batch: Option<u32>,
    /// Images of a stream that may be unanswered.
    #[arg(long, value_name = "N", default_value_t = 256, conflicts_with = "batch",
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    window: u32,
    /// Afterwards wait so long at most until the graphs of all replicas have taken everything in; the servers' CPU time
    /// counts until then. (Searches find everything as soon as it is acknowledged.)
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    settle: Option<Duration>,
}

pub(crate) async fn run(context: &Context, args: IngestArgs) -> Result<(), CliError> {
    if args.load.rate.is_some() && args.batch.is_none() {
        return Err(CliError::Usage("--rate is of requests: give the images of each with --batch".into()));
    }
    let servers = Servers::new(&args.servers)?;
    let data = args.data.clone();
    let stored = super::blocking(move || data.load()).await??.stored;
    let omma = context.connect().await?;
    ensure_collection(&omma, &args, &stored).await?;
    let mut connections = vec![omma.clone()];
    while connections.len() < args.load.connections() {
        connections.push(context.connect().await?);
    }

    let (images, stored) = (stored.len() as u64, Arc::new(stored));
    let (before, own) = (servers.look().await?, super::own_cpu_seconds());
    let begin = Instant::now();
    let run = match args.batch {
        Some(batch) => by_requests(&args, connections, stored, batch as usize).await?,
        None => by_streams(&args, connections, stored).await?,
    };
    let settled = match args.settle {
        Some(patience) => Some(settle(&omma, images.saturating_sub(run.tally.error_count()), begin, patience).await?),
        None => None,
    };
    let report = Report {
        kind: "ingest",
        collection: args.collection,
        clients: args.load.clients as usize,
        rate: args.load.rate,
        run,
        settled,
        recall: None,
        servers: servers.costs(&before, &servers.look().await?),
        own_cpu_seconds: own.zip(super::own_cpu_seconds()).map(|(before, after)| after - before),
    };
    super::show(context, &report)
}

async fn ensure_collection(omma: &Omma, args: &IngestArgs, stored: &Stored) -> Result<(), CliError> {
    match omma.get_collection(&args.collection).await {
        Err(error) if error.reason() == Some(Reason::CollectionNotFound) => {}
        found => return Ok(found.map(drop)?),
    }
    let vector_space = match stored {
        Stored::Vectors(matrix) => {
            Some(VectorSpace { id: VECTOR_SPACE.to_owned(), dimension: matrix.dimension as u32 })
        }
        Stored::Pictures(_) => None,
    };
    let quantization = args.quantization.map(Quantization::from).unwrap_or_default();
    let options = CollectionOptions { vector_space, quantization };
    Ok(omma.create_collection_with(&args.collection, options).await.map(drop)?)
}

/// Each client puts one batch after the other, or when it is due.
async fn by_requests(
    args: &IngestArgs,
    connections: Vec<Omma>,
    stored: Arc<Stored>,
    batch: usize,
) -> Result<Run, CliError> {
    let operations = Some(stored.len().div_ceil(batch) as u64);
    let schedule = Schedule { rate: args.load.rate, operations, lasts: None };
    let (connections, collection) = (Arc::new(connections), args.collection.clone());
    drive(schedule, args.load.clients as usize, move |i, client| {
        let (omma, collection) = (connections[client % connections.len()].clone(), collection.clone());
        let first = i as usize * batch;
        let images: Vec<NewImage> = (first..(first + batch).min(stored.len())).map(|row| stored.image(row)).collect();
        async move {
            let outcomes = omma.put_images(&collection, images).await?;
            let n = outcomes.len() as u64;
            outcomes.into_iter().try_for_each(|outcome| outcome.result.map(drop))?;
            Ok(n)
        }
    })
    .await
}

/// Each client streams every `clients`th image. An image's latency counts from when the stream takes it.
async fn by_streams(args: &IngestArgs, connections: Vec<Omma>, stored: Arc<Stored>) -> Result<Run, CliError> {
    let begin = Instant::now();
    let tally = Arc::new(Mutex::new(Tally::new().map_err(CliError::Failed)?));
    let clients = args.load.clients as usize;
    let mut streams = tokio::task::JoinSet::new();
    for client in 0..clients {
        let (omma, stored, tally) = (connections[client % connections.len()].clone(), stored.clone(), tally.clone());
        let (collection, window) = (args.collection.clone(), args.window as usize);
        streams.spawn(async move { stream(&omma, &collection, window, client, clients, stored, &tally).await });
    }
    while let Some(ended) = streams.join_next().await {
        ended.map_err(|e| CliError::Failed(format!("a client of the load generator ended: {e}")))??;
    }
    let took = begin.elapsed();
    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(Run { tally: std::mem::replace(&mut *tally, Tally::new().map_err(CliError::Failed)?), took })
}

async fn stream(
    omma: &Omma,
    collection: &str,
    window: usize,
    first: usize,
    step: usize,
    stored: Arc<Stored>,
    tally: &Mutex<Tally>,
) -> Result<(), ClientError> {
    let taken: Arc<Mutex<Vec<Instant>>> = Arc::default();
    let source = {
        let taken = taken.clone();
        futures::stream::iter((first..stored.len()).step_by(step)).map(move |row| {
            taken.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            stored.image(row)
        })
    };
    let options = IngestOptions { window_images: window, patience: PATIENCE, ..IngestOptions::default() };
    let mut outcomes = omma.ingest(collection, source, options);
    while let Some(outcome) = outcomes.next().await {
        let outcome = outcome?;
        let since = taken.lock().unwrap_or_else(PoisonError::into_inner).get(outcome.position as usize).copied();
        let latency = since.map(|since| since.elapsed()).unwrap_or_default();
        let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome.result {
            Ok(_) => tally.done(1, latency),
            Err(error) => tally.failed(&error),
        }
    }
    Ok(())
}

/// Waits until every replica has all images in its graphs; returns how long after `begin` that was.
async fn settle(omma: &Omma, images: u64, begin: Instant, patience: Duration) -> Result<Duration, CliError> {
    let since = Instant::now();
    loop {
        let unsettled = unsettled(&omma.status().await?, images);
        let Some(why) = unsettled else { return Ok(begin.elapsed()) };
        if since.elapsed() > patience {
            return Err(CliError::Failed(format!("after {patience:?}, {why}")));
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
}

/// What is missing until all replicas have at least `images` in their graphs. Group 0 holds the metadata.
fn unsettled(status: &GetClusterStatusResponse, images: u64) -> Option<String> {
    let mut all = 0;
    for group in status.groups.iter().filter(|group| group.group_id != 0) {
        let most = group.replicas.iter().map(|r| r.image_count).max().unwrap_or_default();
        all += most;
        for r in &group.replicas {
            if !r.reachable || r.image_count < most || r.tail_count > 0 {
                let behind = most - r.image_count;
                return Some(format!(
                    "a replica of group {} is {behind} images behind and {} wait for its graph",
                    group.group_id, r.tail_count
                ));
            }
        }
    }
    (all < images).then(|| format!("{all} of {images} images are there"))
}

#[cfg(test)]
mod tests {
    use omma_client::proto::{GroupStatus, ReplicaStatus};

    use super::*;

    #[test]
    fn settled_is_when_every_replica_has_everything_in_its_graph() {
        let replica = |image_count, tail_count| ReplicaStatus {
            reachable: true,
            image_count,
            tail_count,
            ..ReplicaStatus::default()
        };
        let of = |replicas: &[ReplicaStatus]| {
            let group = GroupStatus { group_id: 1, replicas: replicas.to_vec(), ..GroupStatus::default() };
            let metadata = GroupStatus { group_id: 0, ..GroupStatus::default() };
            unsettled(&GetClusterStatusResponse { groups: vec![metadata, group], ..Default::default() }, 10)
        };
        assert_eq!(of(&[replica(10, 0), replica(10, 0)]), None);
        assert!(of(&[replica(10, 0), replica(10, 3)]).unwrap().contains("3 wait"));
        assert!(of(&[replica(10, 0), replica(8, 0)]).unwrap().contains("2 images behind"));
        assert!(of(&[replica(9, 0), replica(9, 0)]).unwrap().contains("9 of 10"));
    }
}
