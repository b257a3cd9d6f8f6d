//! `omma backup` and `omma restore`: a collection in a folder or an object store, and back into any cluster.

mod manifest;
mod part;
mod place;
mod read;
mod restore;
mod store;

use std::path::PathBuf;

use clap::Args;
use futures::future::try_join_all;
use serde_json::json;

use crate::commands::Context;
use crate::exit::CliError;
use crate::output::note;
use crate::progress;
use crate::text::count;
use manifest::{FORMAT, GroupManifest, Manifest};
use part::SetDigest;
pub(crate) use place::InvalidPlace;
use place::Place;
pub(crate) use restore::{RestoreArgs, run as run_restore};
pub(crate) use store::StoreError;
use store::{For, Store};

/// Cuts that are used for one group before it is given up.
const TRIES: usize = 5;

#[derive(Debug, Args)]
pub(crate) struct BackupArgs {
    /// The collection.
    collection: String,
    /// The folder to write to, or s3://BUCKET/PREFIX with the credentials, region and endpoint of the variables AWS_….
    ///
    /// A backup of the same collection that was interrupted there is gone on with.
    #[arg(long = "to", value_name = "PLACE")]
    to: PathBuf,
}

pub(crate) async fn run(context: &Context, args: BackupArgs) -> Result<(), CliError> {
    let BackupArgs { collection, to } = args;
    let store = Store::open(Place::parse(&to)?, For::Writing).await?;
    if manifest::read::<Manifest>(&store, manifest::NAME).await?.is_some() {
        let text = format!("{} holds a finished backup: choose another place", store.place());
        return Err(CliError::Failed(text));
    }
    let omma = context.connect().await?;
    let begun = omma.begin_backup(&collection, &[]).await?;
    let entry = begun.collection.clone().unwrap_or_default();
    let space = entry.vector_space.clone().unwrap_or_default();

    let bar = progress::bar(begun.cuts.iter().map(|c| c.image_count).sum(), "backup");
    let source = read::Source { omma: &omma, store: &store, collection: &collection, bar: &bar };
    let (uid, map_epoch) = (entry.uid, begun.map_epoch);
    let mut tasks = Vec::new();
    for cut in begun.cuts {
        if let Some(kept) = kept(&store, uid, map_epoch, cut.group_id).await? {
            note(format!("group {}: {} are there already", kept.group_id, count(kept.images, "image", "images")));
            bar.inc(cut.image_count);
            tasks.push(futures::future::Either::Left(std::future::ready(Ok(kept))));
        } else {
            tasks.push(futures::future::Either::Right(source.group(uid, map_epoch, cut)));
        }
    }
    let groups: Vec<GroupManifest> = try_join_all(tasks).await?;
    bar.finish_and_clear();

    let mut digest = SetDigest::default();
    groups.iter().for_each(|group| digest.join(&group.digest));
    let images = groups.iter().map(|group| group.images).sum();
    let (vector_space, dimension, digest) = (space.id, space.dimension, digest.to_hex());
    let quantization = entry.quantization().as_str_name().to_owned();
    let whole = Manifest { format: FORMAT, collection, vector_space, dimension, quantization, images, digest, groups };
    manifest::write(&store, manifest::NAME, &whole).await?;
    context.output.result(
        || {
            let cut = |g: &GroupManifest| json!({ "group_id": g.group_id, "applied_index": g.applied_index });
            json!({ "images": images, "digest": whole.digest, "groups": whole.groups.iter().map(cut).collect::<Vec<_>>() })
        },
        || format!("{} in {}, digest {}.", count(images, "image", "images"), store.place(), whole.digest),
    )
}

/// A group that an earlier run finished, if all of it is still there and the groups are still divided so.
async fn kept(store: &Store, uid: u64, map_epoch: u64, group: u32) -> Result<Option<GroupManifest>, CliError> {
    let found = match manifest::read::<GroupManifest>(store, &manifest::group_name(group)).await {
        Ok(found) => found,
        Err(error @ CliError::Store(_)) => return Err(error),
        Err(error) => {
            note(format!("{error}; the group is read again"));
            None
        }
    };
    let fits =
        |g: &GroupManifest| (g.format, g.collection_uid, g.map_epoch, g.group_id) == (FORMAT, uid, map_epoch, group);
    let Some(found) = found.filter(fits) else { return Ok(None) };
    for part in &found.parts {
        if let Err(error) = part::check(store, part).await {
            if matches!(error, CliError::Store(_)) {
                return Err(error);
            }
            note(format!("{error}; the group is read again"));
            return Ok(None);
        }
    }
    Ok(Some(found))
}
