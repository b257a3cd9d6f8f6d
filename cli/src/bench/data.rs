//! What is stored and what is searched for.

use std::io::BufReader;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use omma_client::proto::NewImage;
use omma_client::{image_from_embedding, image_from_picture};

use super::args::DataArgs;
use super::generate::Recipe;
use super::matrix::Matrix;
use super::{fvecs, npy};
use crate::exit::CliError;
use crate::indexing;

/// Generated, if no count is given.
const DEFAULT_COUNT: usize = 10_000;
/// Pictures are held in memory, so that reading them is no part of what is measured.
const MAX_PICTURE_BYTES: u64 = 4 << 30;

/// What is stored.
#[derive(Debug)]
pub(super) enum Stored {
    /// Row `i` under the id `v<i>`.
    Vectors(Matrix),
    /// Ids and bytes.
    Pictures(Vec<(String, Bytes)>),
}

/// All of it.
#[derive(Debug)]
pub(super) struct Data {
    pub(super) stored: Stored,
    /// Vectors to search for, none if pictures are stored: these are searched for themselves.
    pub(super) queries: Matrix,
}

impl Stored {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Vectors(matrix) => matrix.rows(),
            Self::Pictures(pictures) => pictures.len(),
        }
    }

    /// Image `i`, which must exist.
    pub(super) fn image(&self, i: usize) -> NewImage {
        match self {
            Self::Vectors(matrix) => image_from_embedding(vector_id(i), matrix.row(i).to_vec()),
            Self::Pictures(pictures) => image_from_picture(pictures[i].0.clone(), pictures[i].1.clone()),
        }
    }
}

pub(super) fn vector_id(row: usize) -> String {
    format!("v{row}")
}

impl DataArgs {
    /// Reads or makes it; blocks.
    pub(super) fn load(&self) -> Result<Data, CliError> {
        if let Some(folder) = &self.pictures {
            return Ok(Data { stored: Stored::Pictures(self.pictures(folder)?), queries: Matrix::default() });
        }
        let (stored, queries) = self.load_vectors()?;
        Ok(Data { stored: Stored::Vectors(stored), queries })
    }

    /// Vectors to store and to search for.
    pub(super) fn load_vectors(&self) -> Result<(Matrix, Matrix), CliError> {
        let (count, queries) = (self.count.map(|n| n as usize), self.queries as usize);
        let Some(path) = &self.vectors else {
            let (dimension, clusters) = (self.dimension as usize, self.clusters as usize);
            let recipe = Recipe { dimension, clusters, spread: self.spread, seed: self.seed };
            return Ok((recipe.base(count.unwrap_or(DEFAULT_COUNT)), recipe.queries(queries)));
        };
        let Some(query_path) = &self.query_vectors else {
            let mut stored = read_vectors(path, count.map_or(usize::MAX, |count| count.saturating_add(queries)))?;
            if stored.rows() <= queries {
                let (path, rows) = (path.display(), stored.rows());
                return Err(CliError::Usage(format!(
                    "{path} holds {rows} vectors: too few to store some and search for {queries}; lower --queries"
                )));
            }
            let queries = stored.split_off(stored.rows() - queries);
            return Ok((stored, queries));
        };
        let (stored, queries) = (read_vectors(path, count.unwrap_or(usize::MAX))?, read_vectors(query_path, queries)?);
        if stored.dimension != queries.dimension {
            return Err(CliError::Usage(format!(
                "{} holds vectors of {} numbers, {} such of {}",
                path.display(),
                stored.dimension,
                query_path.display(),
                queries.dimension
            )));
        }
        Ok((stored, queries))
    }

    fn pictures(&self, folder: &Path) -> Result<Vec<(String, Bytes)>, CliError> {
        if !folder.is_dir() {
            return Err(CliError::Usage(format!("{} is no folder", folder.display())));
        }
        let listing = indexing::list(folder);
        if listing.files.is_empty() {
            return Err(CliError::Usage(format!("{} holds no pictures", folder.display())));
        }
        let mut bytes = 0;
        let mut pictures = Vec::new();
        for file in listing.files.into_iter().take(self.count.map_or(usize::MAX, |n| n as usize)) {
            let picture = std::fs::read(&file.path).map_err(CliError::reading(&file.path))?;
            bytes += picture.len() as u64;
            if bytes > MAX_PICTURE_BYTES {
                let limit = MAX_PICTURE_BYTES >> 30;
                return Err(CliError::Usage(format!("the pictures take more than {limit} GiB: give a --count")));
            }
            pictures.push((file.id, picture.into()));
        }
        Ok(pictures)
    }
}

/// Of unit length, at most `most`.
fn read_vectors(path: &Path, most: usize) -> Result<Matrix, CliError> {
    let file: PathBuf = path.to_owned();
    let input = BufReader::with_capacity(1 << 20, std::fs::File::open(&file).map_err(CliError::reading(&file))?);
    let read = match path.extension().and_then(|e| e.to_str()) {
        Some("fvecs") => fvecs::read(input, most),
        Some("npy") => npy::read(input, most),
        _ => Err("its name ends neither in .fvecs nor in .npy".to_owned()),
    };
    let checked = read.and_then(|mut matrix| matrix.normalise().map(|()| matrix));
    let matrix = checked.map_err(|why| CliError::Usage(format!("{}: {why}", path.display())))?;
    match matrix.rows() {
        0 => Err(CliError::Usage(format!("{} holds no vectors", path.display()))),
        _ => Ok(matrix),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Flags {
        #[command(flatten)]
        data: DataArgs,
    }

    fn load(flags: &[&str]) -> Result<(Matrix, Matrix), CliError> {
        Flags::parse_from([&["x"], flags].concat()).data.load_vectors()
    }

    fn file(folder: &tempfile::TempDir, name: &str, rows: usize) -> String {
        let numbers = (0..rows * 3).map(|i| i as f32 + 1.0).collect();
        let path = folder.path().join(name);
        fvecs::write(std::fs::File::create(&path).unwrap(), &Matrix { dimension: 3, numbers }).unwrap();
        path.display().to_string()
    }

    #[test]
    fn the_last_vectors_of_a_file_are_searched_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(&folder, "a.fvecs", 10);
        let (stored, queries) = load(&["--vectors", &path, "--queries", "3"]).unwrap();
        assert_eq!((stored.rows(), queries.rows()), (7, 3));
        let (stored, again) = load(&["--vectors", &path, "--queries", "3", "--count", "5"]).unwrap();
        assert_eq!((stored.rows(), again.rows()), (5, 3));
        assert!(load(&["--vectors", &path]).unwrap_err().to_string().contains("--queries"));
        let length: f32 = stored.row(2).iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5);
    }

    #[test]
    fn queries_may_come_from_their_own_file() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (file(&folder, "a.fvecs", 10), file(&folder, "b.fvecs", 4));
        let (stored, queries) = load(&["--vectors", &a, "--query-vectors", &b]).unwrap();
        assert_eq!((stored.rows(), queries.rows()), (10, 4));
        let other = folder.path().join("c.txt");
        std::fs::write(&other, "text").unwrap();
        assert!(load(&["--vectors", &other.display().to_string()]).unwrap_err().to_string().contains(".fvecs"));
    }

    #[test]
    fn without_a_file_they_are_made() {
        let (stored, queries) = load(&["--count", "30", "--dimension", "8", "--queries", "5"]).unwrap();
        assert_eq!((stored.rows(), stored.dimension, queries.rows()), (30, 8, 5));
        assert!(Flags::try_parse_from(["x", "--vectors", "a.npy", "--seed", "3"]).is_err());
    }
}
