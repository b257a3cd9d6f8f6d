//! Reads and digests files, asks which are stored already, hands on the others.

use std::sync::Mutex;

use bytes::Bytes;
use futures::StreamExt;
use indicatif::ProgressBar;
use omma_client::proto::NewImage;
use omma_client::{ClientError, Omma, ReadOptions, image_from_picture};
use omma_common::limits::MAX_MESSAGE_BYTES;
use tokio::sync::mpsc;

use super::attributes::Given;
use super::found::Found;
use super::plan::{Decision, by_id, decide};
use super::tally::{Failure, Tally, lock};

/// Files read at once, each on a thread for blocking work.
const READERS: usize = 4;
/// Pictures that are looked up in one call, at most…
const LOOKUP_IMAGES: usize = 64;
/// …and about how many bytes of them are held meanwhile.
const LOOKUP_BYTES: usize = 16 << 20;
/// Room in a message for what stands beside the picture.
const MESSAGE_OVERHEAD: u64 = 256 << 10;

/// A picture in memory.
struct Loaded {
    id: String,
    bytes: Bytes,
    digest: blake3::Hash,
}

/// Ends early, and well, when nobody takes images any more: the ingest knows why.
pub(super) async fn feed(
    omma: &Omma,
    collection: &str,
    files: Vec<Found>,
    given: &Given,
    sender: mpsc::Sender<NewImage>,
    tally: &Mutex<Tally>,
    progress: &ProgressBar,
) -> Result<(), ClientError> {
    let mut loading = futures::stream::iter(files).map(load).buffered(READERS);
    let mut batch: Vec<Loaded> = Vec::new();
    let mut batch_bytes = 0;
    while let Some(loaded) = loading.next().await {
        match loaded {
            Err(failure) => {
                lock(tally).failures.push(failure);
                progress.inc(1);
            }
            Ok(picture) => {
                batch_bytes += picture.bytes.len();
                batch.push(picture);
            }
        }
        if batch.len() >= LOOKUP_IMAGES || batch_bytes >= LOOKUP_BYTES {
            batch_bytes = 0;
            let full = std::mem::take(&mut batch);
            if !send_new(omma, collection, full, given, &sender, tally, progress).await? {
                return Ok(());
            }
        }
    }
    send_new(omma, collection, batch, given, &sender, tally, progress).await.map(|_| ())
}

/// Sends those of a batch that are not stored; `false` if nobody takes them any more.
async fn send_new(
    omma: &Omma,
    collection: &str,
    batch: Vec<Loaded>,
    given: &Given,
    sender: &mpsc::Sender<NewImage>,
    tally: &Mutex<Tally>,
    progress: &ProgressBar,
) -> Result<bool, ClientError> {
    if batch.is_empty() {
        return Ok(true);
    }
    let ids = batch.iter().map(|picture| picture.id.clone()).collect();
    let stored = by_id(omma.batch_get_images(collection, ids, &ReadOptions::default()).await?);
    for picture in batch {
        let Decision::Send(attributes) = decide(&picture.id, picture.digest.as_bytes(), &stored, given) else {
            lock(tally).unchanged += 1;
            progress.inc(1);
            continue;
        };
        let bytes = picture.bytes.len() as u64;
        let image = NewImage { attributes, ..image_from_picture(picture.id, picture.bytes) };
        if sender.send(image).await.is_err() {
            return Ok(false);
        }
        lock(tally).bytes_sent += bytes;
    }
    Ok(true)
}

async fn load(file: Found) -> Result<Loaded, Failure> {
    let id = file.id.clone();
    let failed = |reason: String| Failure { id: file.id.clone(), reason };
    let path = file.path.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let size = std::fs::metadata(&path).map_err(|e| format!("cannot be read: {e}"))?.len();
        // Such a message would be refused anyway; the servers' own limits are lower, and theirs to explain.
        if size > MAX_MESSAGE_BYTES as u64 - MESSAGE_OVERHEAD {
            return Err(format!("is {} MiB large: more than fits into a message", size >> 20));
        }
        let bytes = std::fs::read(&path).map_err(|e| format!("cannot be read: {e}"))?;
        let digest = blake3::hash(&bytes);
        Ok(Loaded { id, bytes: bytes.into(), digest })
    });
    match reading.await {
        Ok(loaded) => loaded.map_err(failed),
        Err(_) => Err(failed("reading it was interrupted".into())),
    }
}
