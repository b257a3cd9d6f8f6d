//! `omma get`

use clap::Args;
use omma_client::ReadOptions;
use omma_client::proto::Image;
use serde_json::json;

use super::Context;
use super::search::ConsistencyArg;
use crate::args::InCollection;
use crate::exit::CliError;
use crate::json;
use crate::output::note;
use crate::table::{Align, Table};
use crate::text::hex;

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// Ids of images.
    #[arg(required = true, num_args = 1..=omma_common::limits::MAX_IDS)]
    ids: Vec<String>,
    #[command(flatten)]
    within: InCollection,
    /// Show embeddings too (with --json).
    #[arg(long)]
    embedding: bool,
    /// How fresh the answer must be.
    #[arg(long, value_enum, default_value_t = ConsistencyArg::Linearizable)]
    consistency: ConsistencyArg,
}

pub(crate) async fn run(context: &Context, args: GetArgs) -> Result<(), CliError> {
    let omma = context.connect().await?;
    let options = ReadOptions { consistency: args.consistency.into(), include_embedding: args.embedding };
    let images = omma.batch_get_images(&args.within.collection, args.ids.clone(), &options).await?;
    let missing: Vec<&String> = args.ids.iter().filter(|id| !images.iter().any(|i| i.id == **id)).collect();
    context.output.result(
        || json!({ "images": images.iter().map(json::image).collect::<Vec<_>>(), "missing": missing }),
        || if images.is_empty() { String::new() } else { table(&images) },
    )?;
    for id in &missing {
        note(format!("omma: there is no image {id:?} in {}", args.within.collection));
    }
    if missing.is_empty() { Ok(()) } else { Err(CliError::Some(missing.len())) }
}

fn table(images: &[Image]) -> String {
    let mut table = Table::new(&[("id", Align::Left), ("picture's BLAKE3", Align::Left), ("attributes", Align::Left)]);
    for image in images {
        let digest = match image.content_digest.as_slice() {
            [] => "(put as an embedding)".to_owned(),
            digest => hex(&digest[..digest.len().min(8)]) + "…",
        };
        let attributes = json::image(image)["attributes"].to_string();
        table.row([image.id.clone(), digest, attributes]);
    }
    table.render()
}
