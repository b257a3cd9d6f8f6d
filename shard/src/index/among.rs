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

/// What a search through the graph costs without a restriction, in rows looked at: from the measured meeting point of
/// both ways, see `docs/performance.md`.
const ROWS_PER_STEP: usize = 1_500;

/// How many keys a search may meet that are not allowed, for each that it keeps and each time that the allowed ones go
/// into the size: one to two, measured, if they lie at random. With many more they lie away from the query, and there the
/// graph leads past the best of them (recall 0.92 among the farther half of 10,000), which a scan does not.
const REFUSED_PER_KEPT: usize = 8;

/// How to search.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// Look at each allowed key.
    Scan,
    /// Through the graph; or look at each after all, if it meets more than so many keys that are not allowed.
    Graph { patience: usize },
}

/// The cheaper way to search `allowed` keys in a graph of `size`, whose searches keep `kept` candidates.
pub(super) fn way(allowed: usize, size: usize, kept: usize) -> Way {
    if allowed.saturating_mul(allowed) <= ROWS_PER_STEP.saturating_mul(size) {
        return Way::Scan;
    }
    let patience = (REFUSED_PER_KEPT * kept).saturating_mul(size) / allowed;
    // So that both together never cost much more than twice the scan.
    Way::Graph { patience: patience.min(allowed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_scanned_and_many_are_walked_to() {
        assert_eq!(way(0, 0, 128), Way::Scan);
        assert_eq!(way(1_000, 1_000, 128), Way::Scan);
        assert_eq!(way(1_000, 1_000_000, 128), Way::Scan);
        assert_eq!(way(500_000, 1_000_000, 128), Way::Graph { patience: 2048 });
        assert_eq!(way(100_000, 1_000_000, 128), Way::Graph { patience: 10_240 });
        assert_eq!(way(50_000, 1_000_000, 1_000), Way::Graph { patience: 50_000 });
    }
}
