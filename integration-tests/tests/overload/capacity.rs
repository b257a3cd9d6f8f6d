//! The curve: searches by picture at once, twice and five times of what the cluster can do.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use bytes::Bytes;
use omma_integration_tests::client::Client;
use omma_integration_tests::note;
use omma_proto::v1::query::Target;
use tokio::task::JoinSet;
use tonic::Code;

use super::{COLLECTION, memory_is_bounded, percentile, search, started};

/// At each rate.
const TIME: Duration = Duration::from_secs(10);
/// What is served may take, 99 of 100 times.
const MOST_P99: Duration = Duration::from_secs(2);
/// A refusal may take, 99 of 100 times.
const MOST_SHED: Duration = Duration::from_millis(200);
/// Of the capacity, what is served above it at least, in percent.
const LEAST_SERVED: f64 = 70.0;

#[derive(Debug, Default)]
struct Outcome {
    served: Vec<Duration>,
    shed: Vec<Duration>,
    failed: usize,
}

/// Requests at `rate` a second for `time`, whether or not those before are answered.
async fn load(clients: &[Client], picture: &Bytes, rate: f64, time: Duration) -> Outcome {
    let mut calls = JoinSet::new();
    let (begin, mut n) = (Instant::now(), 0u32);
    while begin.elapsed() < time {
        let due = Duration::from_secs_f64(f64::from(n) / rate);
        tokio::time::sleep(due.saturating_sub(begin.elapsed())).await;
        let (client, picture) = (clients[n as usize % clients.len()].clone(), picture.clone());
        n += 1;
        calls.spawn(async move {
            let begin = Instant::now();
            let answer = client.search(COLLECTION, Target::Picture(picture), 1).await;
            (answer.err().map(|status| status.code()), begin.elapsed())
        });
    }
    let mut outcome = Outcome::default();
    for (code, took) in calls.join_all().await {
        match code {
            None => outcome.served.push(took),
            Some(Code::ResourceExhausted) => outcome.shed.push(took),
            Some(_) => outcome.failed += 1,
        }
    }
    outcome.served.sort_unstable();
    outcome.shed.sort_unstable();
    outcome
}

/// Closed loop: as many searches a second as clients get that wait for each answer.
async fn capacity(clients: &[Client], picture: &Bytes) -> Result<f64> {
    let (begin, mut workers) = (Instant::now(), JoinSet::new());
    for client in clients {
        let (client, picture) = (client.clone(), picture.clone());
        workers.spawn(async move {
            let mut n = 0u32;
            while begin.elapsed() < TIME / 2 {
                search(&client, &picture).await?;
                n += 1;
            }
            Ok::<_, anyhow::Error>(n)
        });
    }
    let served = workers.join_all().await.into_iter().sum::<Result<u32>>()?;
    Ok(f64::from(served) / begin.elapsed().as_secs_f64())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a minute; measures"]
async fn above_capacity_the_served_share_keeps_its_latency() -> Result<()> {
    let (cluster, client, picture) = started("overload").await?;
    let clients: Vec<Client> = (0..4).map(|_| cluster.client()).collect::<Result<_>>()?;
    capacity(&clients, &picture).await?;
    let capacity = capacity(&clients, &picture).await?;
    note!("capacity: {capacity:.0} searches by picture a second");
    note!("| offered | served a second | p50 | p99 | refused a second | p99 of refusals |");
    note!("|---|---|---|---|---|---|");
    for times in [0.5, 1.0, 2.0, 5.0] {
        let o = load(&clients, &picture, capacity * times, TIME).await;
        let [served, refused] = [&o.served, &o.shed].map(|all| all.len() as f64 / TIME.as_secs_f64());
        let (p50, p99) = (percentile(&o.served, 50), percentile(&o.served, 99));
        let shed = percentile(&o.shed, 99);
        note!("| {times} × | {served:.0} | {p50:.0?} | {p99:.0?} | {refused:.0} | {shed:.0?} |");
        ensure!(o.failed == 0, "{} failed otherwise", o.failed);
        ensure!(p99 < MOST_P99, "p99 at {times} ×: {p99:?}");
        ensure!(shed < MOST_SHED, "p99 of refusals at {times} ×: {shed:?}");
        ensure!(times < 1.0 || served > capacity / 100.0 * LEAST_SERVED, "{served} a second served at {times} ×");
    }
    memory_is_bounded(&cluster)?;
    search(&client, &picture).await?;
    Ok(())
}
