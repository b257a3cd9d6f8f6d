//! Flags that the commands of `omma bench` share.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use omma_common::limits::MAX_DIMENSION;

/// What is stored and searched. Vectors out of a seed, unless a file or a folder is named.
#[derive(Debug, Clone, Args)]
pub(crate) struct DataArgs {
    /// Vectors out of a file: .fvecs, or NumPy's .npy of f4, f8 or u1.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dimension", "clusters", "spread", "seed"])]
    pub(super) vectors: Option<PathBuf>,
    /// Vectors to search for, out of another file; the last ones of --vectors, which are not stored then, if left out.
    #[arg(long, value_name = "FILE", requires = "vectors")]
    pub(super) query_vectors: Option<PathBuf>,
    /// Pictures out of a folder and all folders in it; a picture's path in it is its id.
    #[arg(long, value_name = "FOLDER", conflicts_with_all = ["vectors", "dimension", "clusters", "spread", "seed"])]
    pub(super) pictures: Option<PathBuf>,
    /// How many are stored: of a file or a folder all, if left out, else 10000.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub(super) count: Option<u32>,
    /// How many different ones are searched for.
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) queries: u32,
    /// Numbers of each vector.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_DIMENSION)))]
    pub(super) dimension: u32,
    /// Centres that the vectors lie around.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) clusters: u32,
    /// How far from its centre a vector lies, in lengths of the centre.
    #[arg(long, value_name = "LENGTH", default_value_t = 0.5, value_parser = parse_spread)]
    pub(super) spread: f32,
    /// The same seed gives the same vectors.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
}

/// How the load is made.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Clients. Each waits for its answer before it asks again; with --rate, the most requests that are under way.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) clients: u32,
    /// Connections that the clients share; as many as clients, but 8 at most, if left out.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) connections: Option<u32>,
    /// Requests a second that begin whether or not earlier ones have ended. A latency then counts from the moment that
    /// the request was due, so that one that a slow cluster kept from being sent is as late as its user would find it.
    #[arg(long, value_name = "PER_SECOND", value_parser = parse_rate)]
    pub(super) rate: Option<f64>,
}

impl LoadArgs {
    /// Connections to open.
    pub(super) fn connections(&self) -> usize {
        const MOST: u32 = 8;
        self.connections.unwrap_or(self.clients.min(MOST)).min(self.clients) as usize
    }
}

/// Which processes to watch.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct ServerArgs {
    /// Admin port of a server, http://HOST:PORT: says how much CPU time and memory it takes. Several with commas.
    #[arg(long, value_name = "URL,…", value_delimiter = ',')]
    pub(super) admin: Vec<String>,
    /// Process of a server on this machine: as --admin, out of /proc. Several with commas.
    #[arg(long, value_name = "PID,…", value_delimiter = ',')]
    pub(super) pid: Vec<u32>,
    /// By how much a metric of the admin ports grew, summed over its labels. Several with commas.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "admin")]
    pub(super) metric: Vec<String>,
}

fn parse_rate(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(rate),
        _ => Err("must be a number above 0, at most 1000000".into()),
    }
}

fn parse_spread(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(spread) if (0.0..=1000.0).contains(&spread) => Ok(spread),
        _ => Err("must be a number from 0 to 1000".into()),
    }
}

pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|e| format!("{e}; write 500ms, 30s, 2min"))
}
