//! One client floods the cluster with hostile pictures, as fast as it is answered; another, who is polite, searches and
//! writes beside it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use omma_integration_tests::client::{Client, picture_image};
use omma_integration_tests::cluster::Cluster;
use omma_integration_tests::folders::shared_data;
use omma_integration_tests::note;
use omma_integration_tests::pictures::{draw, jpeg};
use omma_proto::v1::query::Target;
use omma_proto::v1::{BatchGetImagesRequest, PutImagesResponse};
use tokio::task::JoinSet;

use super::{COLLECTION, memory_is_bounded, percentile, search, started};

/// Calls of the flood that are under way at once, half of them searches and half of them puts.
const FLOODERS: usize = 32;
const POLITE_SEARCHES: usize = 400;
/// How many times as long the polite client may wait beside the flood.
const MOST_TIMES: u32 = 3;

/// What a polite client saw.
struct Polite {
    searches: Vec<Duration>,
    writes: Vec<Duration>,
    /// Ids of the images that were acknowledged.
    stored: Vec<String>,
}

/// Searches one after the other, and writes one after the other beside them; none may fail.
async fn polite(client: &Client, picture: &Bytes, phase: &str) -> Result<Polite> {
    let stop = AtomicBool::new(false);
    let searching = async {
        let mut took = Vec::new();
        for _ in 0..POLITE_SEARCHES {
            took.push(search(client, picture).await?);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        took.sort_unstable();
        stop.store(true, Ordering::Relaxed);
        Ok(took)
    };
    let writing = async {
        let (mut took, mut stored) = (Vec::new(), Vec::new());
        while !stop.load(Ordering::Relaxed) {
            let id = format!("{phase} {}", stored.len());
            let picture = jpeg(&draw(stored.len() as u64, 200, 200), 90)?;
            let begin = Instant::now();
            let answer = client.put(COLLECTION, vec![picture_image(&id, picture)]).await?;
            ensure!(acknowledged(&answer), "{answer:?}");
            took.push(begin.elapsed());
            stored.push(id);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        took.sort_unstable();
        Ok((took, stored))
    };
    let (searches, (writes, stored)) = tokio::try_join!(searching, writing)?;
    Ok(Polite { searches, writes, stored })
}

fn acknowledged(answer: &PutImagesResponse) -> bool {
    answer.results.iter().all(|r| r.error.as_ref().is_none_or(|e| e.code == 0))
}

fn hostile_files(folder: &Path) -> Result<Vec<Bytes>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<_>>()?;
    files.sort();
    files.iter().map(|path| Ok(std::fs::read(path)?.into())).collect()
}

/// A flood that goes on until it is stopped.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    flooders: JoinSet<Vec<String>>,
}

impl Flood {
    fn begin(cluster: &Cluster, files: &Arc<Vec<Bytes>>) -> Result<Self> {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (secured, mut flooders) = (cluster.secured()?, JoinSet::new());
        for n in 0..FLOODERS {
            let client = Client::with_key(secured.channel(cluster.address()?)?, secured.other_key())?;
            flooders.spawn(flooder(n, client, files.clone(), stop.clone(), sent.clone()));
        }
        Ok(Self { stop, sent, flooders })
    }

    /// The ids of all images of the flood that were acknowledged.
    async fn end(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.flooders.join_all().await.concat()
    }
}

async fn flooder(
    n: usize,
    client: Client,
    files: Arc<Vec<Bytes>>,
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
) -> Vec<String> {
    let (mut stored, mut at) = (Vec::new(), n);
    while !stop.load(Ordering::Relaxed) {
        let picture = files[at % files.len()].clone();
        if n.is_multiple_of(2) {
            let _ = client.search(COLLECTION, Target::Picture(picture), 1).await;
        } else {
            let id = format!("flood {n} {at}");
            let answer = client.put(COLLECTION, vec![picture_image(&id, picture)]).await;
            stored.extend(answer.is_ok_and(|answer| acknowledged(&answer)).then_some(id));
        }
        at += 1;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    stored
}

/// Every one of `ids` is there.
async fn all_found(client: &Client, ids: &[String]) -> Result<()> {
    for ids in ids.chunks(500) {
        let request = BatchGetImagesRequest { collection: COLLECTION.into(), ids: ids.to_vec(), ..Default::default() };
        let found = client.images().batch_get_images(request).await?.into_inner().images;
        ensure!(found.len() == ids.len(), "{} of {} acknowledged images are there", found.len(), ids.len());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute; measures"]
async fn a_flood_of_hostile_pictures_beside_a_polite_client() -> Result<()> {
    let Some(folder) = shared_data("malformed/synthetic") else { return Ok(()) };
    let files = Arc::new(hostile_files(&folder)?);
    let (cluster, client, picture) = started("flood").await?;
    polite(&client, &picture, "warm").await?;
    let quiet = polite(&client, &picture, "quiet").await?;

    let flood = Flood::begin(&cluster, &files)?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begin = (Instant::now(), flood.sent.load(Ordering::Relaxed));
    let beside = polite(&client, &picture, "beside").await;
    let sent = flood.sent.load(Ordering::Relaxed) - begin.1;
    let rate = sent as f64 / begin.0.elapsed().as_secs_f64();
    let flooded = flood.end().await;
    let beside = beside.context("the polite client was hurt")?;

    for (name, took) in [("quiet", &quiet), ("beside the flood", &beside)] {
        for (what, took) in [("searches", &took.searches), ("writes", &took.writes)] {
            let (n, p50, p99) = (took.len(), percentile(took, 50), percentile(took, 99));
            note!("polite client, {name}: {n} {what}, p50 {p50:.1?}, p99 {p99:.1?}");
        }
    }
    note!("the flood: {rate:.0} hostile pictures a second, {} of them stored", flooded.len());
    memory_is_bounded(&cluster)?;
    all_found(&client, &[&quiet.stored[..], &beside.stored, &flooded].concat()).await?;
    for (what, quiet, beside) in
        [("searches", &quiet.searches, &beside.searches), ("writes", &quiet.writes, &beside.writes)]
    {
        let (quiet, beside) = (percentile(quiet, 99), percentile(beside, 99));
        ensure!(beside < quiet * MOST_TIMES, "p99 of {what} {beside:?}, quiet {quiet:?}");
    }
    Ok(())
}
