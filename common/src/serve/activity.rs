//! Which connections are busy, and which could be missed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::origin::Origin;
use super::unsent::Unsent;

/// A connection all of whose answers wait for their client is busy for so long: honest ones read.
const UNMOVED: Duration = Duration::from_secs(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    in_flight: AtomicUsize,
    /// Those of them that are the server's to answer, or to go on with.
    running: AtomicUsize,
    pub(super) unsent: Unsent,
    /// Whether it ever carried a request.
    used: AtomicBool,
    /// When a request began or ended, or something of an answer was taken, or else when the connection began.
    since: Mutex<Instant>,
    closing: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

/// A request that runs. Dropped when its answer has been sent, or nobody waits for that any more.
#[derive(Debug)]
pub struct InFlight {
    activity: Arc<Activity>,
    running: bool,
}

impl InFlight {
    pub(super) fn activity(&self) -> &Arc<Activity> {
        &self.activity
    }

    /// Something moved, and now it is the client's turn to take it, or the server's to go on.
    pub(super) fn waits_for_client(&mut self, waits: bool) {
        *lock(&self.activity.since) = Instant::now();
        match (self.running, !waits) {
            (true, false) => drop(self.activity.running.fetch_sub(1, Ordering::AcqRel)),
            (false, true) => drop(self.activity.running.fetch_add(1, Ordering::AcqRel)),
            _ => {}
        }
        self.running = !waits;
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.waits_for_client(true);
        self.activity.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            in_flight: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            unsent: Unsent::default(),
            used: AtomicBool::new(false),
            since: Mutex::new(Instant::now()),
            closing: AtomicBool::new(false),
            reader: Mutex::new(None),
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.running.fetch_add(1, Ordering::AcqRel);
        self.used.store(true, Ordering::Relaxed);
        InFlight { activity: self.clone(), running: true }
    }

    /// How long no request has run; `None` while one does. One whose answer is the client's to take runs for a while only:
    /// else a client that reads nothing would be busy for ever.
    pub(super) fn idle(&self) -> Option<Duration> {
        self.idle_if(UNMOVED)
    }

    /// The same, if answers make it busy for no longer than `unmoved`.
    pub(super) fn idle_if(&self, unmoved: Duration) -> Option<Duration> {
        if self.running.load(Ordering::Acquire) > 0 {
            return None;
        }
        let idle = lock(&self.since).elapsed();
        (self.in_flight.load(Ordering::Acquire) == 0 || idle >= unmoved).then_some(idle)
    }

    /// Ready once the connection has to end.
    pub(super) fn poll_closing(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.closing.load(Ordering::Acquire) {
            *lock(&self.reader) = Some(cx.waker().clone());
            // Between the two lines above it may have been told.
            if !self.closing.load(Ordering::Acquire) {
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    fn close(&self) {
        self.closing.store(true, Ordering::Release);
        if let Some(reader) = lock(&self.reader).take() {
            reader.wake();
        }
    }
}

/// All connections of a server.
#[derive(Debug)]
pub(super) struct Registry {
    most: usize,
    /// Of one origin.
    each: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    all: HashMap<u64, (Origin, Arc<Activity>)>,
    counts: HashMap<Origin, usize>,
}

impl Open {
    fn remove(&mut self, id: u64) -> Option<Arc<Activity>> {
        let (origin, activity) = self.all.remove(&id)?;
        if let Some(count) = self.counts.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&origin);
            }
        }
        Some(activity)
    }

    /// The connection that could be missed most easily, of `only` one origin or of all; `None` if all are busy.
    fn idlest(&self, only: Option<Origin>) -> Option<u64> {
        let unused = |activity: &Activity| !activity.used.load(Ordering::Relaxed);
        let these = self.all.iter().filter(|(_, (origin, _))| only.is_none_or(|only| only == *origin));
        let idle = these.filter_map(|(id, (_, other))| Some((unused(other), other.idle()?, *id)));
        idle.max().map(|(_, _, id)| id)
    }
}

/// A place in the registry, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    registry: Arc<Registry>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.registry.open).remove(self.id);
    }
}

impl Registry {
    pub(super) fn new(most: usize, each: usize) -> Arc<Self> {
        Arc::new(Self { most, each, open: Mutex::default() })
    }

    /// A place for a new connection of `origin`. If that has its share, its own connection that has idled longest is
    /// closed for it; if all are taken, the one of all. One that never carried a request goes before all others. `None` if
    /// all are busy.
    pub(super) fn enter(self: &Arc<Self>, origin: Origin, activity: &Arc<Activity>) -> Option<Place> {
        let mut open = lock(&self.open);
        let own = open.counts.get(&origin).copied().unwrap_or(0);
        let gives_way = match (own >= self.each, open.all.len() >= self.most) {
            (true, _) => Some(open.idlest(Some(origin))?),
            (false, true) => Some(open.idlest(None)?),
            (false, false) => None,
        };
        if let Some(activity) = gives_way.and_then(|id| open.remove(id)) {
            activity.close();
        }
        open.next += 1;
        let id = open.next;
        open.all.insert(id, (origin, activity.clone()));
        *open.counts.entry(origin).or_default() += 1;
        Some(Place { id, registry: self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(who: u8) -> Origin {
        Origin::of([10, 0, 0, who].into())
    }

    #[test]
    fn an_address_with_its_share_makes_room_among_its_own() {
        let registry = Registry::new(4, 2);
        let later = |_| {
            std::thread::sleep(Duration::from_millis(5));
            Activity::new()
        };
        let all: Vec<_> = (0..6).map(later).collect();
        let other = registry.enter(from(2), &all[0]);
        let _kept: Vec<_> = (1..4).map(|n| registry.enter(from(1), &all[n]).unwrap()).collect();
        let ended: Vec<_> = all.iter().map(|activity| closed(activity)).collect();
        assert_eq!(ended, [false, true, false, false, false, false], "the idlest of its own, not of all");
        let _busy = [all[2].begin(), all[3].begin()];
        assert!(registry.enter(from(1), &all[4]).is_none(), "its own are busy, and no other gives way");
        assert!(registry.enter(from(2), &all[5]).is_some() && !closed(&all[0]), "there is room for another");
        drop(other);
        assert_eq!(lock(&registry.open).counts.len(), 1, "who has none left is forgotten");
    }

    fn closed(activity: &Activity) -> bool {
        activity.poll_closing(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_new_connection_takes_the_place_of_the_idlest() {
        let registry = Registry::new(2, 2);
        let all: Vec<_> = (0..4).map(|_| Activity::new()).collect();
        let _first = registry.enter(from(1), &all[0]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let second = registry.enter(from(1), &all[1]).unwrap();
        let request = all[0].begin();
        let _third = registry.enter(from(1), &all[2]).unwrap();
        assert!(!closed(&all[0]) && closed(&all[1]) && !closed(&all[2]));
        // Its place is gone already: dropping it must not free another one.
        drop(second);
        let other = all[2].begin();
        assert!(registry.enter(from(1), &all[3]).is_none(), "all are busy");
        drop(request);
        assert!(registry.enter(from(1), &all[3]).is_some());
        assert!(closed(&all[0]) && !closed(&all[2]));
        drop(other);
    }

    #[test]
    fn whoever_only_connects_gives_way_to_whoever_works() {
        let registry = Registry::new(2, 2);
        let (worker, stranger, other) = (Activity::new(), Activity::new(), Activity::new());
        let _worker = registry.enter(from(1), &worker);
        drop(worker.begin());
        std::thread::sleep(Duration::from_millis(5));
        let _stranger = registry.enter(from(1), &stranger);
        assert!(registry.enter(from(1), &other).is_some());
        assert!(!closed(&worker) && closed(&stranger));
    }

    #[test]
    fn a_connection_idles_from_the_end_of_its_last_request() {
        let activity = Activity::new();
        std::thread::sleep(Duration::from_millis(50));
        let request = activity.begin();
        assert_eq!(activity.idle(), None);
        drop(request);
        let idle = activity.idle().unwrap();
        assert!(idle < Duration::from_millis(50), "{idle:?}");
    }
}
