//! Connections and streams that are opened and not used.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_common::error::{Reason, reason_of};
use omma_integration_tests::client::Client;
use omma_integration_tests::cluster::Cluster;
use omma_proto::v1::IngestImagesRequest;
use omma_proto::v1::image_service_client::ImageServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Endpoint;

use super::COLLECTION;

/// Connections of the public port.
pub(crate) const CONNECTIONS: usize = 500;
/// Connections of one attack that are open at once, in the default run and in the long one.
pub(crate) const MANY_CONNECTIONS: usize = 2_000;
pub(crate) const MOST_CONNECTIONS: usize = 10_000;

/// This process needs a file for each connection.
pub(crate) fn allow_many_connections() -> Result<()> {
    // The shell's own: std cannot, and this crate forbids unsafe code.
    let command = format!("prlimit --pid {} --nofile={}:", std::process::id(), MOST_CONNECTIONS + 5_000);
    let raised = std::process::Command::new("sh").args(["-c", &command]).output()?;
    ensure!(raised.status.success(), "cannot open enough files: {}", String::from_utf8_lossy(&raised.stderr));
    Ok(())
}

pub(crate) async fn silent_streams(client: &Client) -> Result<String> {
    let mut streams = Vec::new();
    for _ in 0..200 {
        let silent = tokio_stream::pending::<IngestImagesRequest>();
        streams.push(client.images().ingest_images(silent).await?.into_inner());
    }
    let mut ended = 0;
    for stream in &mut streams {
        let status = stream.message().await.err().context("a silent stream was not ended")?;
        ensure!(reason_of(&status) == Some(Reason::DeadlineExceeded), "{status:?}");
        ended += 1;
    }
    Ok(format!("{ended} ended with DEADLINE_EXCEEDED"))
}

/// Streams that send what is answered with errors and read no answer.
pub(crate) async fn unread_streams(cluster: &Cluster) -> Result<String> {
    let endpoint = Endpoint::from_shared(format!("http://{}", cluster.address()?))?;
    // Room for a few answers.
    let channel = endpoint.initial_stream_window_size(1 << 10).connect_lazy();
    let mut streams = Vec::new();
    for _ in 0..50 {
        let empty = || IngestImagesRequest { collection: COLLECTION.into(), ..Default::default() };
        let images = tokio_stream::iter(std::iter::repeat_with(empty).take(100_000));
        streams.push(ImageServiceClient::new(channel.clone()).ingest_images(images).await?.into_inner());
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    for stream in &mut streams {
        let status = loop {
            match stream.message().await {
                Ok(answer) => ensure!(answer.is_some(), "a stream that was not read ended well"),
                Err(status) => break status,
            }
        };
        ensure!(reason_of(&status) == Some(Reason::DeadlineExceeded), "{status:?}");
    }
    Ok(format!("{} ended with `DEADLINE_EXCEEDED`", streams.len()))
}

pub(crate) async fn idle_connections(cluster: &Cluster, many: usize) -> Result<String> {
    let mut open = Vec::new();
    for _ in 0..many {
        open.push(TcpStream::connect(cluster.address()?).await?);
    }
    // First come the server's settings; then, for most, the end.
    let ended = open.into_iter().map(|mut tcp| async move {
        let mut bytes = Vec::new();
        tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut bytes)).await.is_ok()
    });
    let closed = futures::future::join_all(ended).await.into_iter().filter(|ended| *ended).count();
    ensure!(closed >= many - CONNECTIONS, "only {closed} were closed");
    Ok(format!("{closed} closed, to keep to {CONNECTIONS}"))
}

pub(crate) async fn rubbish(cluster: &Cluster) -> Result<String> {
    let mut closed = 0;
    for n in 0..5_000u32 {
        let mut tcp = TcpStream::connect(cluster.address()?).await?;
        let bytes: Vec<u8> = (0..200).map(|i| (n.wrapping_mul(2_654_435_761).wrapping_add(i * 7) >> 8) as u8).collect();
        let _ = tcp.write_all(&bytes).await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), tcp.read_to_end(&mut answer)).await;
        closed += usize::from(read.is_ok());
    }
    ensure!(closed == 5_000, "only {closed} were closed");
    Ok(format!("{closed} closed"))
}
