//! When the beginning of a log goes: once the flushed state covers it, but for some entries that slow followers may want,
//! and more while a follower takes a snapshot.
//!
//! A snapshot leads up to the index at which its sending began. Were the log behind that index gone when it has arrived,
//! all of it would have to be sent again, and so on for as long as enough is written. Where room on the disk gets scarce, that
//! has to be borne: writes matter more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use omma_proto::internal::v1::DiskRoom;
use openraft::async_runtime::watch::WatchReceiver;
use parking_lot::Mutex;

use super::timings::RaftTimings;
use super::types::Raft;
use crate::room::Room;

/// How much more of the log is kept for a follower that takes a snapshot, as a multiple of what is kept anyway.
const HELD: u64 = 100;
/// A follower that has a snapshot needs the log behind it for some time yet.
const AFTERWARDS: Duration = Duration::from_secs(60);
/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);

/// Snapshots of one group that are sent. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Sending(Arc<Mutex<Sends>>);

#[derive(Debug, Default)]
struct Sends {
    now: usize,
    last_ended: Option<Instant>,
}

impl Sending {
    /// One begins; it ends when what this returns is dropped.
    pub(super) fn begin(&self) -> Sent {
        self.0.lock().now += 1;
        Sent(self.clone())
    }

    /// Whether one is under way, or ended a short time before `now`.
    fn lasts(&self, now: Instant) -> bool {
        let sends = self.0.lock();
        sends.now > 0 || sends.last_ended.is_some_and(|ended| now.duration_since(ended) < AFTERWARDS)
    }
}

/// A snapshot that is sent.
pub(super) struct Sent(Sending);

impl Drop for Sent {
    fn drop(&mut self) {
        let mut sends = self.0.0.lock();
        sends.now -= 1;
        sends.last_ended = Some(Instant::now());
    }
}

/// Until which index the log may go, if that pays. `flushed` and `purged` are indexes, `keep` and `batch` numbers of entries.
fn due(flushed: Option<u64>, purged: Option<u64>, keep: u64, batch: u64) -> Option<u64> {
    let upto = flushed?.checked_sub(keep)?;
    (upto >= purged.map_or(0, |purged| purged + 1) + batch).then_some(upto)
}

/// Entries that are kept now.
fn kept(sending: &Sending, timings: &RaftTimings, room: &Room) -> u64 {
    match sending.lasts(Instant::now()) && room.look() == DiskRoom::Ample {
        true => timings.keep_logs.saturating_mul(HELD),
        false => timings.keep_logs,
    }
}

/// Lets the log of `raft` go as it is due, for as long as the replica is there.
pub(super) async fn run(raft: Raft, sending: Sending, timings: RaftTimings, room: Room) {
    let mut metrics = raft.metrics();
    let batch = (timings.snapshot_every / 8).max(1);
    loop {
        let (flushed, purged) = {
            let now = metrics.borrow_watched();
            (now.snapshot.as_ref().map(|id| id.index), now.purged.as_ref().map(|id| id.index))
        };
        let keep = kept(&sending, &timings, &room);
        let ended = match due(flushed, purged, keep, batch) {
            Some(upto) => raft.trigger().purge_log(upto).await.is_err(),
            None => false,
        };
        // An end is a change that never comes.
        if ended || metrics.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_stays_and_what_is_little_waits() {
        assert_eq!(due(None, None, 10, 5), None);
        assert_eq!(due(Some(9), None, 10, 5), None, "less than is kept");
        assert_eq!(due(Some(14), None, 10, 5), None, "too little");
        assert_eq!(due(Some(15), None, 10, 5), Some(5));
        assert_eq!(due(Some(15), Some(5), 10, 5), None);
        assert_eq!(due(Some(30), Some(5), 10, 5), Some(20));
        assert_eq!(due(Some(30), Some(5), 1000, 5), None, "held");
    }

    #[test]
    fn more_is_kept_only_while_a_snapshot_is_sent_and_there_is_room() {
        let (sending, timings) = (Sending::default(), RaftTimings { keep_logs: 7, ..RaftTimings::default() });
        let room = |free| Room::measured(1_000, move || Ok(free));
        assert_eq!(kept(&sending, &timings, &room(9_000)), 7);
        let _sent = sending.begin();
        assert_eq!(kept(&sending, &timings, &room(9_000)), 7 * HELD);
        assert_eq!(kept(&sending, &timings, &room(1_100)), 7, "new images would soon be refused");
    }

    #[test]
    fn a_snapshot_holds_until_some_time_after_its_end() {
        let (sending, now) = (Sending::default(), Instant::now());
        assert!(!sending.lasts(now));
        let (one, other) = (sending.begin(), sending.begin());
        drop(one);
        assert!(sending.lasts(now + AFTERWARDS * 2));
        drop(other);
        assert!(sending.lasts(Instant::now()));
        assert!(!sending.lasts(Instant::now() + AFTERWARDS));
    }
}
