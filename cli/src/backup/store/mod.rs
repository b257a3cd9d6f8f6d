//! What a backup is written to and read from: a folder or a bucket, behind one interface. The only folder that names
//! `object_store`.

mod folder;
mod http;
mod s3;
mod trouble;

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, WriteMultipart};

use super::place::Place;
pub(crate) use trouble::StoreError;
use trouble::Whereabouts;

/// Bytes of one request: the fewest that S3 takes for a piece of an upload.
const CHUNK: u64 = 5 << 20;
/// Requests that one reader has under way.
const READ_AHEAD: usize = 4;
/// Pieces of one upload that are under way while the next one fills.
const UPLOADING: usize = 1;

/// Who opens a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum For {
    /// `omma backup`: a folder is made.
    Writing,
    /// `omma restore`.
    Reading,
}

/// An open place. What was written is durable when the call returns, and there whole or not at all.
#[derive(Debug)]
pub(super) struct Store {
    objects: Arc<dyn ObjectStore>,
    place: Place,
    prefix: Path,
    whereabouts: Whereabouts,
}

impl Store {
    /// Opens a place, and looks whether it can be reached, for seconds rather than for as long as a request that has
    /// worked before is repeated.
    pub(super) async fn open(place: Place, purpose: For) -> Result<Self, StoreError> {
        match &place {
            Place::Folder(path) => {
                let objects = folder::open(path, purpose).map_err(|e| StoreError::io(format!("use {place}"), &e))?;
                Ok(Self { objects, place, prefix: Path::default(), whereabouts: Whereabouts::Folder })
            }
            Place::Bucket { name, prefix } => {
                let opened = s3::open(name, std::env::vars())?;
                let prefix = Path::parse(prefix)
                    .map_err(|e| StoreError::Other { what: format!("use {place}"), reason: e.to_string() })?;
                let mut store = Self { objects: opened.first, place, prefix, whereabouts: opened.whereabouts };
                store.look().await?;
                store.objects = opened.objects;
                Ok(store)
            }
        }
    }

    /// Whether the bucket is there and may be read.
    async fn look(&self) -> Result<(), StoreError> {
        // Not `size`: an answer to that has no text that would say what is wrong.
        match self.range(super::manifest::NAME, 0..1).await {
            Ok(Some(_)) | Err(StoreError::Other { .. }) => return Ok(()),
            Ok(None) => {}
            Err(error) => return Err(error),
        }
        // Some servers do not say whether it is the object or the bucket that is missing, until they are asked for a list.
        // Not everybody may: what comes next will tell.
        let Some(Err(error)) = self.objects.list(Some(&self.prefix)).next().await else { return Ok(()) };
        match trouble::explain(self.reading(""), &self.whereabouts, &error) {
            lacks @ StoreError::NoBucket { .. } => Err(lacks),
            _ => Ok(()),
        }
    }

    /// What is called `name`, for people.
    pub(super) fn of(&self, name: &str) -> String {
        self.place.of(name)
    }

    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// All of it, if it is there; refused if it has more than `most` bytes.
    pub(super) async fn read(&self, name: &str, most: u64) -> Result<Option<Bytes>, StoreError> {
        let Some(size) = self.size(name).await? else { return Ok(None) };
        if size > most {
            let reason = format!("it has {size} bytes, and {most} at most are expected");
            return Err(StoreError::Other { what: self.reading(name), reason });
        }
        let all = self.chunks(name, size).try_fold(BytesMut::new(), async |mut all, chunk| {
            all.extend_from_slice(&chunk);
            Ok(all)
        });
        Ok(Some(all.await?.freeze()))
    }

    /// Its first `bytes`, in order; an error if there are fewer.
    pub(super) fn chunks(&self, name: &str, bytes: u64) -> impl Stream<Item = Result<Bytes, StoreError>> {
        let ranges = (0..bytes).step_by(CHUNK as usize).map(move |at| at..bytes.min(at + CHUNK));
        stream::iter(ranges)
            .map(move |range| async move {
                let expected = range.end - range.start;
                match self.range(name, range).await? {
                    Some(bytes) if bytes.len() as u64 == expected => Ok(bytes),
                    _ => Err(StoreError::Other { what: self.reading(name), reason: "it has become shorter".into() }),
                }
            })
            .buffered(READ_AHEAD)
    }

    /// Its bytes; `None` if it is not there.
    pub(super) async fn size(&self, name: &str) -> Result<Option<u64>, StoreError> {
        match self.objects.head(&self.path(name)).await {
            Ok(meta) => Ok(Some(meta.size)),
            Err(error) => self.absent(name, error),
        }
    }

    /// Replaces it.
    pub(super) async fn write(&self, name: &str, bytes: Vec<u8>) -> Result<(), StoreError> {
        let put = self.objects.put(&self.path(name), bytes.into()).await;
        put.map(|_| ()).map_err(|e| trouble::explain(self.writing(name), &self.whereabouts, &e))
    }

    /// Begins to replace it: what was there stays until the upload is finished.
    pub(super) async fn upload(&self, name: &str) -> Result<Upload, StoreError> {
        let (what, whereabouts) = (self.writing(name), self.whereabouts.clone());
        match self.objects.put_multipart(&self.path(name)).await {
            Ok(upload) => {
                let write = WriteMultipart::new_with_chunk_size(upload, CHUNK as usize);
                Ok(Upload { write, what, whereabouts })
            }
            Err(error) => Err(trouble::explain(what, &whereabouts, &error)),
        }
    }

    /// A part of it; `None` if it is not there.
    async fn range(&self, name: &str, range: Range<u64>) -> Result<Option<Bytes>, StoreError> {
        match self.objects.get_range(&self.path(name), range).await {
            Ok(found) => Ok(Some(found)),
            Err(error) => self.absent(name, error),
        }
    }

    fn absent<T>(&self, name: &str, error: Error) -> Result<Option<T>, StoreError> {
        match (&error, trouble::explain(self.reading(name), &self.whereabouts, &error)) {
            (_, lacks @ StoreError::NoBucket { .. }) => Err(lacks),
            (Error::NotFound { .. }, _) => Ok(None),
            (_, explained) => Err(explained),
        }
    }

    fn path(&self, name: &str) -> Path {
        self.prefix.clone().join(name)
    }

    fn reading(&self, name: &str) -> String {
        format!("read {}", self.of(name))
    }

    fn writing(&self, name: &str) -> String {
        format!("write {}", self.of(name))
    }
}

/// Something that is being written, in pieces: at most three of them are in memory.
#[derive(Debug)]
pub(super) struct Upload {
    write: WriteMultipart,
    what: String,
    whereabouts: Whereabouts,
}

impl Upload {
    /// Waits while too much of it is under way.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let room = self.write.wait_for_capacity(UPLOADING + 1).await;
        room.map_err(|e| trouble::explain(self.what.clone(), &self.whereabouts, &e))?;
        self.write.write(bytes);
        Ok(())
    }

    /// There, whole and durable, when this returns.
    pub(super) async fn finish(self) -> Result<(), StoreError> {
        let finished = self.write.finish().await;
        finished.map(|_| ()).map_err(|e| trouble::explain(self.what, &self.whereabouts, &e))
    }

    /// Gives it up, pieces and all.
    pub(super) async fn abort(self) {
        // What stays there after a failure is what an interruption leaves: the store's own rules clear it away.
        let _ = self.write.abort().await;
    }
}
