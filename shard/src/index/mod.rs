//! The vector index of one collection in one replica.
//!
//! A [`LiveIndex`] is an HNSW graph, an exactly searched tail of what is not in the graph yet, and tombstones of what
//! is in the graph but no longer lives. It knows keys and unit vectors only: nothing of stores, records or Raft.
//!
//! Keys ascend as records are written and never repeat; 0 is no key, so that it can mean "nothing yet".

mod among;
mod beside;
mod checkpoint;
// Vector instructions: each unsafe block there has its proof.
#[allow(unsafe_code)]
mod dot;
mod eights;
mod exact;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod generation;
mod hnsw;
mod hnsw_format;
mod live;
mod pace;
mod slots;
mod tail;
mod tombstones;

#[cfg(test)]
mod among_tests;
#[cfg(test)]
mod stress;
#[cfg(test)]
mod suite;

use omma_common::topk::Ranked;

pub use among::Among;
pub use dot::dot;
pub use exact::Exact;
pub use hnsw::Hnsw;
pub use live::{Export, IndexStats, LiveIndex};

/// How a number of an embedding is kept in the graph. The caller keeps the exact embedding and ranks again with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Storage {
    /// 4 bytes, exact.
    F32,
    /// 2 bytes, 11 bits of precision: for unit vectors nearly as good as exact.
    #[default]
    F16,
    /// 2 bytes, 8 bits of precision.
    Bf16,
    /// 1 byte. A search waits for memory most of the time, so that this is the fastest, too; ranked again by the exact
    /// embeddings it finds nearly what [`Storage::F16`] does, but where many are equally near (`docs/performance.md`).
    I8,
}

/// Of fewer numbers each counts for more, and eight bits are too few.
const LEAST_FOR_I8: usize = 128;

impl Storage {
    /// What suits embeddings of so many numbers if nobody says anything.
    pub fn for_dimension(dimension: usize) -> Self {
        if dimension < LEAST_FOR_I8 { Self::F16 } else { Self::I8 }
    }

    /// So many times the candidates that are wanted are kept where every embedding is looked at anyway: there may be
    /// many that eight bits cannot tell apart.
    fn scanned(self) -> usize {
        if self == Self::I8 { 4 } else { 1 }
    }

    /// More candidates than the `k` hits that are wanted, so that the best are among them whatever the order is, of a
    /// search that keeps `expansion_search` anyway.
    fn spare(self, k: usize, expansion_search: usize) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => (k / 4).clamp(8, 64),
            // What differs by less than rounding takes away is in no order at all. Of those that cannot be among the
            // best nothing is read, so that many cost little.
            Self::I8 => expansion_search.saturating_sub(k).max(k).clamp(16, 128),
        }
    }

    /// The most by which a score out of the graph differs from the exact one, for a query of unit length: both of a
    /// product's factors are rounded, and so is each step of the sum. Proven, but in eight bits: see [`eights::error`]. So
    /// whoever relies on it must look whether it holds.
    fn error(self, query: &[f32]) -> f32 {
        let rounded = match self {
            Self::F32 => 0.0,
            Self::F16 => 2.0 / 2048.0,
            Self::Bf16 => 2.0 / 256.0,
            Self::I8 => eights::error(query),
        };
        rounded + query.len() as f32 * f32::EPSILON
    }
}

/// What an index is built with. All but `expansion_search` and `threads` shape the graph and must not change under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexConfig {
    /// Numbers per embedding, at least 1.
    pub dimension: usize,
    /// Precision inside the graph.
    pub storage: Storage,
    /// HNSW's M: links per node and level (twice that on the ground level).
    pub connectivity: usize,
    /// HNSW's efConstruction: how many candidates an insert looks at.
    pub expansion_add: usize,
    /// HNSW's ef: how many candidates a search keeps. More finds more and takes longer.
    pub expansion_search: usize,
    /// Searches and inserts that may run in the graph at once. Further ones wait, for a bounded time.
    pub threads: usize,
}

/// Finds more than 0.99 of the ten best where embeddings have clusters.
pub const DEFAULT_EXPANSION_SEARCH: usize = 128;

impl IndexConfig {
    /// The defaults for embeddings of `dimension` numbers.
    pub fn new(dimension: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            dimension,
            storage: Storage::for_dimension(dimension),
            connectivity: 16,
            expansion_add: 128,
            expansion_search: DEFAULT_EXPANSION_SEARCH,
            threads: (2 * cores).max(4),
        }
    }
}

/// Why an index could not do what it was asked.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum IndexError {
    /// A configuration that no graph can have.
    #[error("the index cannot be configured so: {0}")]
    Config(&'static str),
    /// A vector of the wrong length.
    #[error("the vector has {actual} numbers; the index has dimension {expected}")]
    Dimension {
        /// Of the index.
        expected: usize,
        /// Given.
        actual: usize,
    },
    /// A vector with NaN or infinity in it.
    #[error("the vector holds a number that is not finite")]
    NotFinite,
    /// All thread slots stayed taken for too long.
    #[error("the index is busy: no free slot within {waited_ms} ms")]
    Busy {
        /// How long the caller waited.
        waited_ms: u64,
    },
    /// A checkpoint that does not hold the graph it should.
    #[error("the index checkpoint is damaged or of another configuration: {0}")]
    Checkpoint(String),
    /// A rebuild was not given every live record; the old graph stays.
    #[error("the rebuild saw {rebuilt} of {live} live records")]
    Incomplete {
        /// Live records in the new graph.
        rebuilt: usize,
        /// Live records in the old one.
        live: usize,
    },
    /// A second rebuild while one runs.
    #[error("a rebuild is running already")]
    Rebuilding,
    /// The graph engine refused; most likely out of memory.
    #[error("graph engine: {0}")]
    Engine(String),
}

/// A hit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The record's key.
    pub key: u64,
    /// Inner product with the query, −1 to 1 for unit vectors; higher is nearer.
    pub score: f32,
    /// The exact score is at most so far from `score`: 0 where that comes from the exact embedding, more where it comes
    /// out of the graph.
    pub error: f32,
}

impl Ranked for Candidate {
    type Id = u64;
    fn score(&self) -> f32 {
        self.score
    }
    fn id(&self) -> &u64 {
        &self.key
    }
}

/// Which keys a search may return. Called for every embedding that the search looks at: it must be quick.
pub type Allow<'a> = &'a (dyn Fn(u64) -> bool + Sync);

/// Nearest neighbours by inner product of unit vectors.
pub trait VectorIndex: Send + Sync {
    /// Adds embeddings. A key that is already there is left as it is.
    fn add(&self, items: &[(u64, &[f32])]) -> Result<(), IndexError>;

    /// Up to `k` of the best keys, best first (score, then key); `allow` restricts them.
    fn search(&self, query: &[f32], k: usize, allow: Option<Allow<'_>>) -> Result<Vec<Candidate>, IndexError>;

    /// Whether `key` was added.
    fn contains(&self, key: u64) -> bool;

    /// Embeddings held.
    fn len(&self) -> usize;

    /// Whether nothing was added.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory held, in bytes.
    fn memory_bytes(&self) -> usize;
}

/// Refuses what would poison every score it touches.
fn check(vector: &[f32], dimension: usize) -> Result<(), IndexError> {
    if vector.len() != dimension {
        return Err(IndexError::Dimension { expected: dimension, actual: vector.len() });
    }
    if !vector.iter().all(|x| x.is_finite()) {
        return Err(IndexError::NotFinite);
    }
    Ok(())
}
