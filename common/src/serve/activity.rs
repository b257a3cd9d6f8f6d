//! Which connections are busy, and which could be missed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    in_flight: AtomicUsize,
    /// When the last request began or ended, or else the connection.
    since: Mutex<Instant>,
    closing: AtomicBool,
    reader: Mutex<Option<Waker>>,
}

/// A request that runs. Dropped when its answer has been sent, or nobody waits for that any more.
#[derive(Debug)]
pub struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        *lock(&self.0.since) = Instant::now();
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            in_flight: AtomicUsize::new(0),
            since: Mutex::new(Instant::now()),
            closing: AtomicBool::new(false),
            reader: Mutex::new(None),
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        InFlight(self.clone())
    }

    /// How long no request has run; `None` while one does.
    pub(super) fn idle(&self) -> Option<Duration> {
        (self.in_flight.load(Ordering::Acquire) == 0).then(|| lock(&self.since).elapsed())
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
    open: Mutex<(u64, HashMap<u64, Arc<Activity>>)>,
}

/// A place in the registry, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    id: u64,
    registry: Arc<Registry>,
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.registry.open).1.remove(&self.id);
    }
}

impl Registry {
    pub(super) fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most, open: Mutex::default() })
    }

    /// A place for a new connection. If all are taken, the connection that has idled longest is closed for it; `None`
    /// if all are busy.
    pub(super) fn enter(self: &Arc<Self>, activity: &Arc<Activity>) -> Option<Place> {
        let mut open = lock(&self.open);
        if open.1.len() >= self.most {
            let idle = open.1.iter().filter_map(|(id, other)| Some((other.idle()?, *id)));
            let (_, id) = idle.max()?;
            open.1.remove(&id)?.close();
        }
        open.0 += 1;
        let id = open.0;
        open.1.insert(id, activity.clone());
        Some(Place { id, registry: self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(activity: &Activity) -> bool {
        activity.poll_closing(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_new_connection_takes_the_place_of_the_idlest() {
        let registry = Registry::new(2);
        let all: Vec<_> = (0..4).map(|_| Activity::new()).collect();
        let _first = registry.enter(&all[0]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        let second = registry.enter(&all[1]).unwrap();
        let request = all[0].begin();
        let _third = registry.enter(&all[2]).unwrap();
        assert!(!closed(&all[0]) && closed(&all[1]) && !closed(&all[2]));
        // Its place is gone already: dropping it must not free another one.
        drop(second);
        let other = all[2].begin();
        assert!(registry.enter(&all[3]).is_none(), "all are busy");
        drop(request);
        assert!(registry.enter(&all[3]).is_some());
        assert!(closed(&all[0]) && !closed(&all[2]));
        drop(other);
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
