//! What a server shows of itself.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::RwLock;

use crate::metrics::Scrape;

/// A server that runs.
pub trait Subject: Send + Sync {
    /// How far the start is; `None` once it is through.
    fn starting(&self) -> Option<String>;
    /// Why it can neither serve nor forward; `None` if it can.
    fn unready(&self) -> Option<String>;
    /// Adds numbers. May block for a moment.
    fn scrape(&self, out: &mut Scrape);
}

/// One server's place on the admin port: there before the server itself is. Clones are the same place.
#[derive(Clone, Default)]
pub struct Vitals(Arc<Inner>);

#[derive(Default)]
struct Inner {
    step: RwLock<String>,
    subject: RwLock<Option<Weak<dyn Subject>>>,
    started: AtomicBool,
    stopping: AtomicBool,
}

impl std::fmt::Debug for Vitals {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vitals").field("starting", &self.starting()).field("unready", &self.unready()).finish()
    }
}

impl Vitals {
    /// What the start is at, before there is a subject.
    pub fn step(&self, step: impl Into<String>) {
        *self.0.step.write() = step.into();
    }

    /// From now on `subject` answers. It is not kept alive.
    pub fn show(&self, subject: &Arc<dyn Subject>) {
        *self.0.subject.write() = Some(Arc::downgrade(subject));
    }

    /// The shutdown has begun: no longer ready.
    pub fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Release);
    }

    fn subject(&self) -> Option<Arc<dyn Subject>> {
        self.0.subject.read().as_ref().and_then(Weak::upgrade)
    }

    /// How far the start is; `None` once it was through.
    pub fn starting(&self) -> Option<String> {
        if self.0.started.load(Ordering::Acquire) {
            return None;
        }
        let Some(subject) = self.subject() else { return Some(self.0.step.read().clone()) };
        let starting = subject.starting();
        if starting.is_none() {
            self.0.started.store(true, Ordering::Release);
        }
        starting
    }

    /// Why it can neither serve nor forward.
    pub fn unready(&self) -> Option<String> {
        if self.0.stopping.load(Ordering::Acquire) {
            return Some("shutting down".to_owned());
        }
        match self.subject() {
            Some(subject) => self.starting().or_else(|| subject.unready()),
            None => Some(self.starting().unwrap_or_else(|| "stopped".to_owned())),
        }
    }

    pub(super) fn scrape(&self, out: &mut Scrape) {
        if let Some(subject) = self.subject() {
            subject.scrape(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Server {
        starting: AtomicBool,
        ready: bool,
    }

    impl Subject for Server {
        fn starting(&self) -> Option<String> {
            self.starting.load(Ordering::Relaxed).then(|| "3 of 5".to_owned())
        }
        fn unready(&self) -> Option<String> {
            (!self.ready).then(|| "no map".to_owned())
        }
        fn scrape(&self, _: &mut Scrape) {}
    }

    #[test]
    fn a_server_starts_once_and_is_ready_until_it_stops() {
        let vitals = Vitals::default();
        vitals.step("opening");
        assert_eq!(vitals.starting().as_deref(), Some("opening"));
        let server = Arc::new(Server { starting: AtomicBool::new(true), ready: true });
        let subject: Arc<dyn Subject> = server.clone();
        vitals.show(&subject);
        assert_eq!(vitals.unready().as_deref(), Some("3 of 5"));
        server.starting.store(false, Ordering::Relaxed);
        assert_eq!((vitals.starting(), vitals.unready()), (None, None));
        server.starting.store(true, Ordering::Relaxed);
        assert_eq!(vitals.starting(), None, "a start is through once and for all");
        vitals.stopping();
        assert_eq!((vitals.starting(), vitals.unready().as_deref()), (None, Some("shutting down")));
    }

    #[test]
    fn what_is_gone_is_not_ready() {
        let vitals = Vitals::default();
        let subject: Arc<dyn Subject> = Arc::new(Server { starting: AtomicBool::new(false), ready: false });
        vitals.show(&subject);
        assert_eq!(vitals.unready().as_deref(), Some("no map"));
        drop(subject);
        assert_eq!(vitals.unready().as_deref(), Some("stopped"));
    }
}
