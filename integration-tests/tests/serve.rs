//! `omma serve`: a coordinator and a shard node in one process, which need no connection between them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_integration_tests::client::{Client, by_vector, ids, picture_image, vector_image};
use omma_integration_tests::folders::{binary, target_folder};
use omma_integration_tests::pictures::{draw, jpeg};
use omma_integration_tests::ports::free_port;
use omma_integration_tests::process::Process;
use omma_integration_tests::runtime::onnxruntime;
use omma_integration_tests::watchdog::Watchdog;
use omma_proto::v1::query::Target;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(60);
const DIMENSION: usize = 8;

/// Established connections from or to `port` of this machine's loopback.
fn connections(port: u16) -> Result<usize> {
    const ESTABLISHED: &str = "01";
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let port = format!(":{port:04X}");
    let mut found = 0;
    for line in table.lines().skip(1) {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, state, ..] = fields.as_slice() else { continue };
        found += usize::from(*state == ESTABLISHED && (local.ends_with(&port) || remote.ends_with(&port)));
    }
    Ok(found)
}

async fn said(process: &Process, what: &str, times: usize) -> Result<()> {
    let begin = Instant::now();
    while process.log()?.matches(what).count() < times {
        ensure!(process.ended().is_none(), "it ended: {}", process.log_tail(2_000));
        ensure!(begin.elapsed() < PATIENCE, "it never said {what:?}: {}", process.log_tail(2_000));
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_serves_stops_and_serves_again() -> Result<()> {
    let run = target_folder()?.join("cluster-data").join(format!("serve-{}", std::process::id()));
    std::fs::create_dir_all(&run)?;
    let _watchdog = Watchdog::over(&run)?;
    let (public, inner) = (free_port()?, free_port()?);
    let arguments = [
        ("--data", run.join("data").display().to_string()),
        ("--listen", format!("127.0.0.1:{public}")),
        ("--shard-listen", format!("127.0.0.1:{inner}")),
        ("--onnxruntime", onnxruntime().await?.display().to_string()),
    ];
    let arguments = arguments.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let arguments = [vec!["serve".to_owned()], arguments].concat();
    let process = Process::new("serve".to_owned(), binary("omma")?, arguments, run.join("serve.log"), &run);

    process.start()?;
    said(&process, "Omma answers at", 1).await?;
    let client = Client::to(&format!("127.0.0.1:{public}"))?;
    client.create("pictures", None).await?;
    client.create("vectors", Some(DIMENSION as u32)).await?;
    let picture = jpeg(&draw(1, 300, 200), 90)?;
    client.store("pictures", vec![picture_image("p", picture.clone())], PATIENCE).await?;
    let vector = |i: usize| (0..DIMENSION).map(|d| if d == i { 1.0 } else { 0.01 }).collect::<Vec<f32>>();
    let images = (0..DIMENSION).map(|i| vector_image(&format!("v{i}"), vector(i))).collect();
    client.store("vectors", images, PATIENCE).await?;
    finds(&client, &picture, &vector(3)).await?;
    ensure!(connections(public)? > 0, "the table of connections cannot be read");
    // That which waited for the start to end was the last.
    ensure!(connections(inner)? == 0, "the coordinator is connected to the shard node of its own process");

    process.terminate(Duration::from_secs(20))?;
    process.start()?;
    said(&process, "Omma answers at", 2).await?;
    finds(&client, &picture, &vector(3)).await.context("after a restart")?;
    process.terminate(Duration::from_secs(20))
}

async fn finds(client: &Client, picture: &bytes::Bytes, vector: &[f32]) -> Result<()> {
    let found = client.search("pictures", Target::Picture(picture.clone()), 1).await?;
    ensure!(ids(&found) == ["p"], "{found:?}");
    let found = client.search("vectors", by_vector(vector), 1).await?;
    ensure!(ids(&found) == ["v3"], "{found:?}");
    Ok(())
}
