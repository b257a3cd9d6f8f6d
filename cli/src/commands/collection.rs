//! `omma collection …`

use clap::{Args, Subcommand, ValueEnum};
use omma_client::CollectionOptions;
use omma_client::proto::{Collection, Quantization, VectorSpace};
use serde_json::{Value, json};

use super::Context;
use crate::exit::CliError;
use crate::json;
use crate::table::{Align, Table};
use crate::text::thousands;

#[derive(Debug, Subcommand)]
pub(crate) enum CollectionCommand {
    /// Create a collection
    Create(CreateArgs),
    /// Show one collection and count its images
    Get(NameArgs),
    /// List all collections
    List,
    /// Delete a collection and every image in it
    Delete(NameArgs),
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// 1 to 64 of a-z, 0-9, '-', '_'; begins with a letter or digit.
    name: String,
    /// Name of the vector space, for embeddings that are computed elsewhere. Left out: the encoder's.
    #[arg(long, value_name = "ID", requires = "dimension")]
    vector_space: Option<String>,
    /// Numbers per embedding of that space.
    #[arg(long, value_name = "N", requires = "vector_space",
          value_parser = clap::value_parser!(u32).range(1..=i64::from(omma_common::limits::MAX_DIMENSION)))]
    dimension: Option<u32>,
    /// How the graphs keep the embeddings' numbers; as the shard nodes are configured if left out (i8, or f16 for
    /// embeddings of fewer than 128 numbers). Take f16 where many images are nearly the same.
    #[arg(long, value_enum, value_name = "KIND")]
    quantization: Option<QuantizationArg>,
}

/// As the protocol names them. Hits are always ranked by the embeddings as they were put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QuantizationArg {
    /// 4 bytes a number.
    F32,
    /// 2 bytes, for embeddings as good as 4.
    F16,
    /// 1 byte: the least memory.
    I8,
}

impl From<QuantizationArg> for Quantization {
    fn from(arg: QuantizationArg) -> Self {
        match arg {
            QuantizationArg::F32 => Self::F32,
            QuantizationArg::F16 => Self::F16,
            QuantizationArg::I8 => Self::I8,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The collection.
    name: String,
}

pub(crate) async fn run(context: &Context, command: CollectionCommand) -> Result<(), CliError> {
    let omma = context.connect().await?;
    match command {
        CollectionCommand::Create(args) => {
            let options = CollectionOptions {
                vector_space: args
                    .vector_space
                    .zip(args.dimension)
                    .map(|(id, dimension)| VectorSpace { id, dimension }),
                quantization: args.quantization.map(Quantization::from).unwrap_or_default(),
            };
            let made = omma.create_collection_with(&args.name, options).await?;
            context.output.result(|| json::collection(&made), || table(std::slice::from_ref(&made), false))
        }
        CollectionCommand::Get(args) => {
            let collection = omma.get_collection(&args.name).await?;
            context.output.result(|| json::collection(&collection), || table(std::slice::from_ref(&collection), true))
        }
        CollectionCommand::List => {
            let all = omma.list_collections().await?;
            context.output.result(
                || Value::Array(all.iter().map(json::collection).collect()),
                || if all.is_empty() { "There are no collections yet.".into() } else { table(&all, false) },
            )
        }
        CollectionCommand::Delete(args) => {
            omma.delete_collection(&args.name).await?;
            context.output.result(
                || json!({ "name": args.name, "deleted": true }),
                || format!("Deleted the collection {} and every image in it.", args.name),
            )
        }
    }
}

fn table(collections: &[Collection], counted: bool) -> String {
    let mut columns = vec![("name", Align::Left), ("vector space", Align::Left), ("dimension", Align::Right)];
    columns.push(("created", Align::Left));
    if counted {
        columns.push(("images", Align::Right));
    }
    let mut table = Table::new(&columns);
    for c in collections {
        let space = c.vector_space.clone().unwrap_or_default();
        let created = c.create_time.map(|t| t.to_string()).unwrap_or_default();
        table.row(
            [c.name.clone(), space.id, space.dimension.to_string(), created, thousands(c.image_count)]
                .into_iter()
                .take(columns.len()),
        );
    }
    table.render()
}
