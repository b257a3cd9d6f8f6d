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
    /// The collection to make; the backup's name if left out. One that has images is refused.
    #[arg(long = "as", value_name = "NAME")]
    name: Option<String>,
    /// Go on with a collection that an interrupted restore of the same backup has left: what was changed or deleted in it
    /// since is as in the backup again.
    #[arg(long)]
    resume: bool,
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
    prepare(&omma, &name, &manifest, args.resume).await?;
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
    if now != manifest.images {
        let text = format!(
            "{now} images are in {name:?} and {} were restored: others write to it, or it was not made from this backup",
            manifest.images
        );
        return Err(CliError::Failed(text));
    }
    context.output.result(
        || json!({ "collection": name, "images": manifest.images, "digest": manifest.digest }),
        || format!("{} restored into {name:?}.", count(manifest.images, "image", "images")),
    )
}

/// Makes the collection, or finds one that may be filled.
async fn prepare(omma: &Omma, name: &str, manifest: &Manifest, resume: bool) -> Result<(), CliError> {
    let space = VectorSpace { id: manifest.vector_space.clone(), dimension: manifest.dimension };
    let quantization = Quantization::from_str_name(&manifest.quantization).unwrap_or_default();
    let options = CollectionOptions { vector_space: Some(space.clone()), quantization };
    match omma.create_collection_with(name, options).await {
        Ok(_) => Ok(()),
        Err(error) if error.reason() == Some(Reason::CollectionExists) => {
            let there = omma.get_collection(name).await?;
            let same_space = there.vector_space == Some(space);
            may_fill(name, same_space, there.image_count, manifest.images, resume).map_err(CliError::Failed)
        }
        Err(error) => Err(error.into()),
    }
}

/// Whether a collection that exists may be filled from a backup of `images` images: only if that takes nothing from
/// anybody. Whether an interrupted restore has made it cannot be seen, so the caller has to say it (`resume`).
fn may_fill(name: &str, same_space: bool, there: u64, images: u64, resume: bool) -> Result<(), String> {
    if !same_space || (resume && there > images) {
        return Err(format!("there is another collection {name:?}: choose a name with --as"));
    }
    if there > 0 && !resume {
        return Err(format!(
            "there is a collection {name:?} with {}: choose another name with --as. If an interrupted restore of this \
             backup has left it, go on with --resume; what was changed or deleted in it since is then as in the backup",
            count(there, "image", "images")
        ));
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_empty_or_said_to_be_half_restored_is_filled() {
        let may = |same_space, there, resume| may_fill("photos", same_space, there, 1_000, resume);
        assert!(may(true, 0, false).is_ok() && may(true, 0, true).is_ok());
        assert!(may(true, 900, true).is_ok() && may(true, 1_000, true).is_ok());
        for there in [1, 900, 1_000, 1_001] {
            let refused = may(true, there, false).unwrap_err();
            assert!(refused.contains("--as") && refused.contains("--resume"), "{refused}");
        }
        assert!(may(true, 1_001, true).unwrap_err().contains("another collection"));
        assert!(may(false, 0, true).is_err() && may(false, 0, false).is_err());
    }
}
