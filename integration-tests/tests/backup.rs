//! Backups: taken while everything changes, restored into another cluster, refused when damaged, gone on with when
//! interrupted. The command itself is what runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use omma_integration_tests::client::vector_image;
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::{binary, target_folder};
use omma_integration_tests::ingest::{Ingest, IngestOptions};
use omma_integration_tests::note;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::v1::AttributeValue;
use omma_proto::v1::attribute_value::Kind;
use serde_json::Value;

const COLLECTION: &str = "photos";
const DIMENSION: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);

fn omma(cluster: &Cluster, arguments: &[&str]) -> Result<Command> {
    let mut command = Command::new(binary("omma")?);
    command.args(["--json", "--endpoint", &format!("http://{}", cluster.address()?)]).args(arguments);
    Ok(command)
}

async fn run(cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
    let mut command = omma(cluster, arguments)?;
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
}

async fn succeed(cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
    let output = run(cluster, arguments).await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{arguments:?}: {said}");
    serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?} printed no JSON; {said}"))
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path is no text")
}

fn parts(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)?.map(|e| Ok(e?.path())).collect::<Result<Vec<_>>>()?;
    let mut parts: Vec<_> = entries.into_iter().filter(|p| p.extension().is_some_and(|e| e == "part")).collect();
    parts.sort();
    Ok(parts)
}

fn flip(file: &Path) -> Result<()> {
    let mut bytes = std::fs::read(file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(std::fs::write(file, bytes)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_into_another_cluster() -> Result<()> {
    let seed = seed("backup");
    let folder = target_folder()?.join("cluster-data").join(format!("backup-{}", std::process::id()));
    let (first, quiet) = (folder.join("first"), folder.join("quiet"));
    let source = Cluster::start(ClusterOptions::named("backup_source")).await?;
    let client = source.client()?;
    client.create(COLLECTION, Some(DIMENSION as u32)).await?;
    let mut rng = generator(seed, 0);
    for batch in 0..8 {
        let image = |i| {
            let mut image = vector_image(&format!("fixed-{batch}-{i}"), unit_vector(&mut rng, DIMENSION));
            let value = AttributeValue { kind: Some(Kind::IntegerValue(i64::from(i))) };
            image.attributes = [("n".to_owned(), value)].into();
            image
        };
        client.put(COLLECTION, (0..200).map(image).collect()).await?;
    }

    // While images come, and those of before go.
    let options = IngestOptions { collection: COLLECTION.to_owned(), dimension: DIMENSION, writers: 4, seed };
    let ingest = Ingest::begin(&client, &options);
    ingest.wait_for(200, PATIENCE).await?;
    let deleting = {
        let client = client.clone();
        tokio::spawn(async move {
            for i in 0..200 {
                let ids: Vec<String> = (0..8).map(|batch| format!("fixed-{batch}-{i}")).collect();
                let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
                client.delete(COLLECTION, &ids).await?;
            }
            Ok::<_, tonic::Status>(())
        })
    };
    let before = ingest.count();
    let taken = succeed(&source, &["backup", COLLECTION, "--to", text(&first)?]).await?;
    let images = taken["images"].as_u64().context("no count")?;
    deleting.await??;
    ensure!(images >= before, "{images} images, and {before} were acknowledged before");
    note!("{images} images while {before} became {}, cuts {}", ingest.count(), taken["groups"]);
    ingest.finish().await?;

    // Interrupted: one group is whole, one lacks its manifest, one has a damaged part.
    let taken_quiet = succeed(&source, &["backup", COLLECTION, "--to", text(&quiet)?]).await?;
    let again = run(&source, &["backup", COLLECTION, "--to", text(&quiet)?]).await?;
    ensure!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("finished"));
    std::fs::remove_file(quiet.join("manifest.json"))?;
    let refused = run(&source, &["restore", "--from", text(&quiet)?, "--as", "x"]).await?;
    ensure!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("not finished"));
    std::fs::remove_file(quiet.join("group-2.json"))?;
    let damaged =
        parts(&quiet)?.into_iter().rfind(|p| p.display().to_string().contains("group-3-")).context("no part")?;
    flip(&damaged)?;
    let resumed = run(&source, &["backup", COLLECTION, "--to", text(&quiet)?]).await?;
    let said = String::from_utf8_lossy(&resumed.stderr).into_owned();
    ensure!(resumed.status.success() && said.contains("group 1: ") && said.contains("are there already"), "{said}");
    ensure!(said.contains(text(&damaged)?) && !said.contains("group 2: ") && !said.contains("group 3: "), "{said}");
    let resumed: Value = serde_json::from_slice(&resumed.stdout)?;
    ensure!(resumed["digest"] == taken_quiet["digest"], "{resumed} {taken_quiet}");
    drop(source);

    // Another number of nodes and groups.
    let shape = ClusterOptions { shard_nodes: 1, groups: 5, replication: 1, ..ClusterOptions::named("backup_target") };
    let target = Cluster::start(shape).await?;
    let part = parts(&first)?.pop().context("no part")?;
    flip(&part)?;
    let refused = run(&target, &["restore", "--from", text(&first)?, "--as", "damaged"]).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(!refused.status.success() && said.contains(text(&part)?) && said.contains("damaged"), "{said}");
    flip(&part)?;

    let mut killed = omma(&target, &["restore", "--from", text(&first)?, "--as", "again"])?.spawn()?;
    tokio::time::sleep(Duration::from_millis(250)).await;
    killed.kill()?;
    killed.wait()?;
    let restored = succeed(&target, &["restore", "--from", text(&first)?, "--as", "again"]).await?;
    ensure!(restored["images"].as_u64() == Some(images));
    let other = succeed(&target, &["backup", "again", "--to", text(&folder.join("again"))?]).await?;
    ensure!(other["digest"] == taken["digest"] && other["images"] == taken["images"], "{other} {taken}");
    ensure!(other["groups"].as_array().is_some_and(|groups| groups.len() == 5), "{other}");
    let client = target.client()?;
    ensure!(client.count("again").await? == images);
    note!("restored {images} images into 5 groups on one node: digest {}", taken["digest"]);
    Ok(std::fs::remove_dir_all(folder)?)
}
