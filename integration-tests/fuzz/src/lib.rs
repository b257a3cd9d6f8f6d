//! What the fuzz targets share.

#![forbid(unsafe_code)]

use std::sync::LazyLock;
use std::time::Duration;

use omma_shard::store::Store;

/// One store for all runs of a process, in a folder that is removed by whoever set `TMPDIR`.
pub fn with_store(work: impl FnOnce(&Store)) {
    static STORE: LazyLock<Store> = LazyLock::new(|| {
        let folder = std::env::temp_dir().join(format!("omma-fuzz-{}", std::process::id()));
        Store::open(&folder, 16 << 20, Duration::from_secs(3600)).unwrap_or_else(|e| panic!("{e}"))
    });
    work(&STORE);
}

/// A panic of a decoder is caught and costs its picture an error, so it is no finding; every other panic is one, caught or
/// not. To be called once the fuzzer has set its hook, which ends the process.
pub fn forgive_decoders() {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // What is fuzzed of our own is no package of a registry.
        if panic.location().is_none_or(|at| !at.file().contains("/registry/src/")) {
            end(panic);
        }
    }));
}
