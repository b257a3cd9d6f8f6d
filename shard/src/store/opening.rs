//! Opening a store whose files may be damaged: sled panics then instead of failing, and while it unwinds it waits for a
//! thread that it has not started yet, for ever. So it opens on a thread that can be left behind, and what a panic says is
//! heard before the unwinding begins.

use std::io::{Error, ErrorKind, Result};
use std::panic::PanicHookInfo;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use super::LEAF_FANOUT;
use crate::panics::heard;

type Db = sled::Db<LEAF_FANOUT>;

/// How long a store that is locked is tried again. A process that this one starts (sled starts some) has its locks, too,
/// until it has begun to be itself; so what was closed just now may still be locked.
const LOCKED: Duration = Duration::from_secs(1);
/// Between two tries.
const AGAIN: Duration = Duration::from_millis(10);

/// `InvalidData` if it panics, `WouldBlock` if another process has it open.
pub(super) fn open(config: &sled::Config) -> Result<Db> {
    let begun = Instant::now();
    loop {
        match open_now(config.clone()) {
            Err(error) if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < LOCKED => {
                std::thread::sleep(AGAIN)
            }
            opened => return opened,
        }
    }
}

fn open_now(config: sled::Config) -> Result<Db> {
    let (outcome, opened) = channel();
    std::thread::Builder::new().name("store-opening".to_owned()).spawn(move || {
        let told = outcome.clone();
        let ear = move |panic: &PanicHookInfo<'_>| {
            drop(told.send(Err(damaged(panic.payload_as_str().unwrap_or("it cannot be read")))));
            false
        };
        let db = heard(ear, || Db::open_with_config(&config));
        // Nobody is gone: whoever opens waits.
        drop(outcome.send(db));
    })?;
    opened.recv().unwrap_or_else(|_| Err(damaged("it cannot be read")))
}

fn damaged(reason: &str) -> Error {
    Error::new(ErrorKind::InvalidData, reason.to_owned())
}
