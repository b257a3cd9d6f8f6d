//! Backups, in folders and in an object store: taken while everything changes, restored into another cluster, refused
//! when damaged, gone on with when interrupted. The command itself is what runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use omma_integration_tests::client::{by_vector, ids, vector_image};
use omma_integration_tests::cluster::{Cluster, ClusterOptions};
use omma_integration_tests::folders::{binary, target_folder};
use omma_integration_tests::ingest::{Ingest, IngestOptions};
use omma_integration_tests::note;
use omma_integration_tests::object_store::ObjectStore;
use omma_integration_tests::ports::free_port;
use omma_integration_tests::vectors::{generator, seed, unit_vector};
use omma_proto::v1::AttributeValue;
use omma_proto::v1::attribute_value::Kind;
use serde_json::Value;

const COLLECTION: &str = "photos";
const DIMENSION: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the backups of a test are.
struct Backups {
    folder: PathBuf,
    /// Objects instead of files.
    store: Option<ObjectStore>,
}

impl Backups {
    fn folder(&self, name: &str) -> PathBuf {
        self.store.as_ref().map_or_else(|| self.folder.join(name), |store| store.folder(name))
    }

    /// As the command line names it.
    fn place(&self, name: &str) -> Result<String> {
        match self.store {
            Some(_) => Ok(format!("s3://{}/{name}", ObjectStore::BUCKET)),
            None => Ok(text(&self.folder(name))?.to_owned()),
        }
    }

    /// As errors name a file of `name`.
    fn shown(&self, name: &str, file: &Path) -> Result<String> {
        Ok(format!("{}/{}", self.place(name)?, text(Path::new(file.file_name().context("no name")?))?))
    }

    fn omma(&self, cluster: &Cluster, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary("omma")?);
        command.args(["--json", "--endpoint", &format!("http://{}", cluster.address()?)]).args(arguments);
        command.envs(self.store.iter().flat_map(ObjectStore::environment));
        Ok(command)
    }

    async fn run(&self, cluster: &Cluster, arguments: &[&str]) -> Result<Output> {
        output(self.omma(cluster, arguments)?).await
    }

    async fn succeed(&self, cluster: &Cluster, arguments: &[&str]) -> Result<Value> {
        let output = self.run(cluster, arguments).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{arguments:?}: {said}");
        serde_json::from_slice(&output.stdout).with_context(|| format!("{arguments:?} printed no JSON; {said}"))
    }
}

async fn output(mut command: Command) -> Result<Output> {
    Ok(tokio::task::spawn_blocking(move || command.output()).await??)
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
async fn a_backup_in_a_folder_is_restored_into_another_cluster() -> Result<()> {
    let folder = target_folder()?.join("cluster-data").join(format!("backup-{}", std::process::id()));
    let backups = Backups { folder: folder.clone(), store: None };
    round_trip(&backups, "folder").await?;
    Ok(std::fs::remove_dir_all(folder)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_in_an_object_store_is_restored_into_another_cluster() -> Result<()> {
    let folder = target_folder()?.join("cluster-data").join(format!("backup-s3-{}", std::process::id()));
    let backups = Backups { store: Some(ObjectStore::start(&folder, true).await?), folder: folder.clone() };
    round_trip(&backups, "objects").await?;
    Ok(std::fs::remove_dir_all(folder)?)
}

async fn round_trip(backups: &Backups, name: &str) -> Result<()> {
    let seed = seed("backup");
    let source = Cluster::start(ClusterOptions::named(&format!("backup_source_{name}"))).await?;
    fill(&source, seed).await?;
    let taken = back_up_while_everything_changes(backups, &source, seed).await?;
    interrupt(backups, &source).await?;
    drop(source);
    restore_elsewhere(backups, name, &taken).await
}

async fn fill(source: &Cluster, seed: u64) -> Result<()> {
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
    Ok(())
}

/// Into "first", while images come, and those of before go.
async fn back_up_while_everything_changes(backups: &Backups, source: &Cluster, seed: u64) -> Result<Value> {
    let client = source.client()?;
    let options = IngestOptions { collection: COLLECTION.to_owned(), dimension: DIMENSION, writers: 4, seed };
    let ingest = Ingest::begin(&client, &options);
    ingest.wait_for(200, PATIENCE).await?;
    let deleting = tokio::spawn(async move {
        for i in 0..200 {
            let ids: Vec<String> = (0..8).map(|batch| format!("fixed-{batch}-{i}")).collect();
            let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
            client.delete(COLLECTION, &ids).await?;
        }
        Ok::<_, tonic::Status>(())
    });
    let before = ingest.count();
    let taken = backups.succeed(source, &["backup", COLLECTION, "--to", &backups.place("first")?]).await?;
    let images = taken["images"].as_u64().context("no count")?;
    deleting.await??;
    ensure!(images >= before, "{images} images, and {before} were acknowledged before");
    note!("{images} images while {before} became {}, cuts {}", ingest.count(), taken["groups"]);
    ingest.finish().await?;
    Ok(taken)
}

/// What is half there is gone on with, and not taken for whole.
async fn interrupt(backups: &Backups, source: &Cluster) -> Result<()> {
    let place = backups.place("quiet")?;
    let backup = ["backup", COLLECTION, "--to", &place];
    if let Some(store) = &backups.store {
        store.stop_after(10);
        let mut killed = backups.omma(source, &backup)?.spawn()?;
        let held = tokio::time::timeout(PATIENCE, async {
            while !store.holds_requests() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        held.await.context("the backup does not get as far as that")?;
        killed.kill()?;
        killed.wait()?;
        ensure!(!backups.folder("quiet").join("manifest.json").exists());
        store.go_on();
    }
    let taken = backups.succeed(source, &backup).await?;
    let again = backups.run(source, &backup).await?;
    ensure!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("finished"));

    // One group is whole, one lacks its manifest, one has a damaged part; a file was being written.
    let quiet = backups.folder("quiet");
    std::fs::remove_file(quiet.join("manifest.json"))?;
    let refused = backups.run(source, &["restore", "--from", &place, "--as", "x"]).await?;
    ensure!(!refused.status.success() && String::from_utf8_lossy(&refused.stderr).contains("not finished"));
    std::fs::remove_file(quiet.join("group-2.json"))?;
    let damaged =
        parts(&quiet)?.into_iter().rfind(|p| p.display().to_string().contains("group-3-")).context("no part")?;
    flip(&damaged)?;
    let unfinished = quiet.join("group-2-00000.part#1");
    if backups.store.is_none() {
        std::fs::write(&unfinished, "half a part")?;
    }
    let resumed = backups.run(source, &backup).await?;
    let said = String::from_utf8_lossy(&resumed.stderr).into_owned();
    ensure!(resumed.status.success() && said.contains("group 1: ") && said.contains("are there already"), "{said}");
    ensure!(said.contains(&backups.shown("quiet", &damaged)?), "{said}");
    ensure!(!said.contains("group 2: ") && !said.contains("group 3: "), "{said}");
    ensure!(!unfinished.exists());
    let resumed: Value = serde_json::from_slice(&resumed.stdout)?;
    ensure!(resumed["digest"] == taken["digest"], "{resumed} {taken}");
    Ok(())
}

/// Into another number of nodes and groups.
async fn restore_elsewhere(backups: &Backups, name: &str, taken: &Value) -> Result<()> {
    let images = taken["images"].as_u64().context("no count")?;
    let named = ClusterOptions::named(&format!("backup_target_{name}"));
    let target = Cluster::start(ClusterOptions { shard_nodes: 1, groups: 5, replication: 1, ..named }).await?;
    let place = backups.place("first")?;
    let part = parts(&backups.folder("first"))?.pop().context("no part")?;
    flip(&part)?;
    let refused = backups.run(&target, &["restore", "--from", &place, "--as", "damaged"]).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    let shown = backups.shown("first", &part)?;
    ensure!(!refused.status.success() && said.contains(&shown) && said.contains("damaged"), "{said}");
    flip(&part)?;

    let restore = ["restore", "--from", &place, "--as", "again"];
    let mut killed = backups.omma(&target, &restore)?.spawn()?;
    tokio::time::sleep(Duration::from_millis(250)).await;
    killed.kill()?;
    killed.wait()?;
    let resume = ["restore", "--from", &place, "--as", "again", "--resume"];
    let restored = backups.succeed(&target, &resume).await?;
    ensure!(restored["images"].as_u64() == Some(images));
    let other = backups.succeed(&target, &["backup", "again", "--to", &backups.place("again")?]).await?;
    ensure!(other["digest"] == taken["digest"] && other["images"] == taken["images"], "{other} {taken}");
    ensure!(other["groups"].as_array().is_some_and(|groups| groups.len() == 5), "{other}");
    ensure!(target.client()?.count("again").await? == images);
    live_stays(backups, &target, &restore, images).await?;
    note!("{name}: restored {images} images into 5 groups on one node: digest {}", taken["digest"]);
    Ok(())
}

/// A collection that has gone on since is not taken back to what it was, unless that is asked for.
async fn live_stays(backups: &Backups, target: &Cluster, restore: &[&str], images: u64) -> Result<()> {
    let client = target.client()?;
    let vector = unit_vector(&mut generator(seed("backup_live"), 1), DIMENSION);
    let first = client.search("again", by_vector(&vector), 2).await?;
    let [deleted, changed] = ids(&first)[..] else { bail!("{first:?}") };
    client.delete("again", &[deleted]).await?;
    client.put("again", vec![vector_image(changed, vector.clone())]).await?;
    let refused = backups.run(target, restore).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && said.contains("--as") && said.contains("--resume"), "{said}");
    ensure!(client.count("again").await? == images - 1, "a deleted image is back");
    let now = client.search("again", by_vector(&vector), 1).await?;
    ensure!(ids(&now) == [changed] && now.hits[0].score > 0.999, "a changed image is as before: {now:?}");
    Ok(())
}

/// Where a backup is to be, the store there, variables besides its own, the exit code and a part of the error.
type Case<'a> = (&'a str, &'a ObjectStore, &'a [(&'a str, &'a str)], i32, &'a str);

#[tokio::test(flavor = "multi_thread")]
async fn an_object_store_that_does_not_do_it_is_a_clear_error() -> Result<()> {
    let folder = target_folder()?.join("cluster-data").join(format!("backup-errors-{}", std::process::id()));
    let (plain, secure) = (folder.join("plain"), folder.join("secure"));
    let (store, secure) = (ObjectStore::start(&plain, false).await?, ObjectStore::start(&secure, true).await?);
    let (here, there) = ("s3://backups/x", "s3://missing/x");
    let nobody = format!("http://127.0.0.1:{}", free_port()?);
    let cases: [Case<'_>; 9] = [
        (here, &store, &[], 1, "s3://backups/x/manifest.json: the backup was not finished"),
        (there, &store, &[], 1, "there is no bucket \"missing\" at http://127.0.0.1:"),
        (here, &store, &[("AWS_SECRET_ACCESS_KEY", "other")], 1, "(SignatureDoesNotMatch): check AWS_ACCESS_KEY_ID"),
        (here, &store, &[("AWS_ACCESS_KEY_ID", "other")], 1, "(NotSignedUp): check AWS_ACCESS_KEY_ID"),
        (here, &store, &[("AWS_SECRET_ACCESS_KEY", "")], 1, "SecretAccessKey"),
        (here, &store, &[("AWS_ENDPOINT_URL", nobody.as_str())], 3, "cannot be reached: Connection refused"),
        (here, &store, &[("AWS_ENDPOINT_URL", "http://192.0.2.1:9000")], 1, "AWS_ALLOW_HTTP=true"),
        (here, &secure, &[("AWS_CA_BUNDLE", "")], 3, "certificate"),
        ("gs://backups/x", &store, &[], 2, "s3://BUCKET/PREFIX"),
    ];
    for (place, store, variables, code, hint) in cases {
        for arguments in [["restore", "--from", place, "--as", "y"], ["backup", "y", "--to", place, "--json"]] {
            // A backup may begin where there is none.
            if hint.contains("not finished") && arguments[0] == "backup" {
                continue;
            }
            let mut command = Command::new(binary("omma")?);
            command.args(arguments).envs(store.environment()).envs(variables.iter().copied());
            let output = output(command).await?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.code() == Some(code) && said.contains(hint), "{arguments:?} {variables:?}: {said}");
        }
    }
    Ok(std::fs::remove_dir_all(folder)?)
}
