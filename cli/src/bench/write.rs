//! `omma bench write`

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::args::DataArgs;
use super::fvecs;
use super::matrix::Matrix;
use crate::commands::Context;
use crate::exit::CliError;

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    #[command(flatten)]
    data: DataArgs,
    /// Where the vectors to be stored go, of unit length, in the .fvecs format.
    base: PathBuf,
    /// Where those to search for go.
    search_for: PathBuf,
}

pub(crate) async fn run(context: &Context, args: WriteArgs) -> Result<(), CliError> {
    let (flags, base, queries) = (args.data, args.base, args.search_for);
    if flags.pictures.is_some() {
        return Err(CliError::Usage("vectors are written, not pictures".into()));
    }
    let (stored, searched, dimension) = super::blocking(move || {
        let (stored, searched) = flags.load_vectors()?;
        write(&base, &stored)?;
        write(&queries, &searched)?;
        Ok::<_, CliError>((stored.rows(), searched.rows(), stored.dimension))
    })
    .await??;
    context.output.result(
        || json!({ "vectors": stored, "queries": searched, "dimension": dimension }),
        || format!("Wrote {stored} vectors of {dimension} numbers, and {searched} to search for."),
    )
}

fn write(path: &Path, matrix: &Matrix) -> Result<(), CliError> {
    let file = File::create(path).map_err(CliError::writing(path))?;
    fvecs::write(BufWriter::with_capacity(1 << 20, file), matrix).map_err(CliError::writing(path))
}
