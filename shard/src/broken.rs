//! Promises broken on purpose, to show that the tests of promises notice. Nothing of this is in a build without the
//! feature `broken`, which no other feature and no release has; with it, `OMMA_BROKEN` says which promise.

/// Whether `what` is broken in this process.
fn is(what: &str) -> bool {
    cfg!(feature = "broken") && std::env::var_os("OMMA_BROKEN").is_some_and(|named| named == what)
}

/// `stale-reads`: a replica takes whatever it has applied for fresh.
pub(crate) fn serves_stale_reads() -> bool {
    is("stale-reads")
}

/// `no-fsync`: the Raft log is acknowledged before it is on disk.
pub(crate) fn skips_fsync() -> bool {
    is("no-fsync")
}

/// `forgotten-answers`: the answers to some requests are not remembered, so a retry takes effect again.
pub(crate) fn forgets(request_id: &str) -> bool {
    is("forgotten-answers") && request_id.bytes().fold(0u8, u8::wrapping_add).is_multiple_of(4)
}

#[cfg(all(test, not(feature = "broken")))]
mod tests {
    #[test]
    fn nothing_is_broken_without_the_feature() {
        assert!(!super::serves_stale_reads() && !super::skips_fsync() && !super::forgets(""));
    }
}
