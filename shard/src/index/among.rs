//! Searches that may return only some of the keys: through the graph, or past it.
//!
//! Through the graph the search walks over what it may not return until it has enough of the rest, so that it costs
//! about `1 / share` as much as without a restriction; looking at each of the allowed keys costs `share · size`. The
//! two meet where `allowed² = ROWS_PER_STEP · size`.

/// The keys that a search may return.
pub trait Among: Sync {
    /// Whether it may return this one. Called for many embeddings that the search looks at: it must be quick.
    fn contains(&self, key: u64) -> bool;

    /// How many there are.
    fn len(&self) -> usize;

    /// Whether there is none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All of them, each once.
    fn keys(&self) -> Box<dyn Iterator<Item = u64> + '_>;
}

/// Measured (see `docs/performance.md`): what an unrestricted search through the graph costs, in rows looked at.
const ROWS_PER_STEP: usize = 1_500;

/// How to search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Look at each allowed key.
    Scan,
    /// Through the graph; if it meets more than so many keys that are not allowed, what is allowed lies far from the
    /// query, and a scan is quicker and surer.
    Graph { patience: usize },
}

/// The cheaper way to search `allowed` keys in a graph of `size`.
pub(super) fn way(allowed: usize, size: usize) -> Way {
    if allowed.saturating_mul(allowed) <= ROWS_PER_STEP.saturating_mul(size) {
        return Way::Scan;
    }
    // So that both together never cost much more than twice the scan.
    Way::Graph { patience: allowed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_scanned_and_many_are_walked_to() {
        assert_eq!(way(0, 0), Way::Scan);
        assert_eq!(way(1_000, 1_000), Way::Scan);
        assert_eq!(way(1_000, 1_000_000), Way::Scan);
        assert_eq!(way(100_000, 1_000_000), Way::Graph { patience: 100_000 });
        assert_eq!(way(usize::MAX, usize::MAX), Way::Scan);
    }
}
