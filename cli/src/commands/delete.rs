//! `omma delete`

use clap::Args;
use serde_json::json;

use super::Context;
use crate::args::InCollection;
use crate::exit::CliError;
use crate::text::count;

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Ids of images. Those that are not there are no error.
    #[arg(required = true, num_args = 1..=omma_common::limits::MAX_IDS)]
    ids: Vec<String>,
    #[command(flatten)]
    within: InCollection,
}

pub(crate) async fn run(context: &Context, args: DeleteArgs) -> Result<(), CliError> {
    let omma = context.connect().await?;
    let asked = args.ids.len() as u64;
    let deleted = u64::from(omma.delete_images(&args.within.collection, args.ids).await?);
    context.output.result(
        || json!({ "deleted_count": deleted }),
        || match asked - deleted.min(asked) {
            0 => format!("Deleted {}.", count(deleted, "image", "images")),
            absent => format!("Deleted {}; {absent} were not there.", count(deleted, "image", "images")),
        },
    )
}
