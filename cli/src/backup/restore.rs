//! A backup back into a cluster, of however many nodes and groups.

use std::path::PathBuf;

use clap::Args;
use futures::{TryStreamExt, stream};
use omma_client::proto::{BackupImage, Quantization, VectorSpace};
use omma_client::{CollectionOptions, Omma};
use omma_common::error::Reason;
use prost::Message;
use serde_json::json;

use super::manifest::{self, FORMAT, Manifest};
use super::part::{self, SetDigest};
use super::place::Place;
use super::store::{For, Store};
use crate::commands::Context;
use crate::exit::CliError;
use crate::progress;
use crate::text::count;

/// Bounds of one call.
const CALL_IMAGES: usize = 256;
const CALL_BYTES: usize = 4 << 20;
/// Calls at once.
const AT_ONCE: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct RestoreArgs {
    /// The folder of the backup, or s3://BUCKET/PREFIX with the credentials, region and endpoint of the variables AWS_….
    #[arg(long = "from", value_name = "PLACE")]
    from: PathBuf,
    /// The collection to make; the backup's name if left out. One that an interrupted restore has made is gone on with.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
}

pub(crate) async fn run(context: &Context, args: RestoreArgs) -> Result<(), CliError> {
    let store = Store::open(Place::parse(&args.from)?, For::Reading).await?;
    let path = store.of(manifest::NAME);
    let manifest: Manifest = manifest::read(&store, manifest::NAME)
        .await?
        .ok_or_else(|| CliError::Failed(format!("there is no {path}: the backup was not finished; run it again")))?;
    if manifest.format != FORMAT {
        let text = format!("{path} has format {}; this version reads {FORMAT}", manifest.format);
        return Err(CliError::Failed(text));
    }
    let omma = context.connect().await?;
    let name = args.name.unwrap_or_else(|| manifest.collection.clone());
    let there_before = prepare(&omma, &name, &manifest).await?;
    let bar = progress::bar(manifest.images, "restore");
    let mut digest = SetDigest::default();
    for part in manifest.groups.iter().flat_map(|group| &group.parts) {
        // Checked before any of it is stored.
        let loaded = part::load(&store, part).await?;
        let images = part::images(store.of(&part.file), part, loaded)?;
        restore_images(&omma, &name, images, &mut digest, &bar).await?;
    }
    bar.finish_and_clear();
    if digest.to_hex() != manifest.digest {
        return Err(CliError::Failed(format!("the parts of {path} hold other images than it says")));
    }
    let now = omma.get_collection(&name).await?.image_count;
    if !there_before && now != manifest.images {
        let text = format!("{now} images are in {name:?} and {} were restored: others write to it", manifest.images);
        return Err(CliError::Failed(text));
    }
    context.output.result(
        || json!({ "collection": name, "images": manifest.images, "digest": manifest.digest }),
        || format!("{} restored into {name:?}.", count(manifest.images, "image", "images")),
    )
}

/// Makes the collection; returns whether it was there, as an interrupted restore leaves it.
async fn prepare(omma: &Omma, name: &str, manifest: &Manifest) -> Result<bool, CliError> {
    let space = VectorSpace { id: manifest.vector_space.clone(), dimension: manifest.dimension };
    let quantization = Quantization::from_str_name(&manifest.quantization).unwrap_or_default();
    let options = CollectionOptions { vector_space: Some(space.clone()), quantization };
    match omma.create_collection_with(name, options).await {
        Ok(_) => Ok(false),
        Err(error) if error.reason() == Some(Reason::CollectionExists) => {
            let there = omma.get_collection(name).await?;
            match there.vector_space == Some(space) && there.image_count <= manifest.images {
                true => Ok(true),
                false => {
                    Err(CliError::Failed(format!("there is another collection {name:?}: choose a name with --as")))
                }
            }
        }
        Err(error) => Err(error.into()),
    }
}

async fn restore_images(
    omma: &Omma,
    name: &str,
    images: impl Iterator<Item = Result<BackupImage, CliError>>,
    digest: &mut SetDigest,
    bar: &indicatif::ProgressBar,
) -> Result<(), CliError> {
    let mut images = images.fuse();
    let calls = std::iter::from_fn(|| {
        let (mut call, mut bytes) = (Vec::<BackupImage>::new(), 0);
        while call.len() < CALL_IMAGES && bytes < CALL_BYTES {
            match images.next() {
                Some(Ok(image)) => {
                    let encoded = image.encode_to_vec();
                    digest.add(&encoded);
                    bytes += encoded.len();
                    call.push(image);
                }
                Some(Err(error)) => return Some(Err(error)),
                None => break,
            }
        }
        (!call.is_empty()).then_some(Ok(call))
    });
    stream::iter(calls)
        .map_ok(|call| async move {
            let stored = omma.restore_images(name, call).await?;
            bar.inc(u64::from(stored));
            Ok(())
        })
        .try_buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}
