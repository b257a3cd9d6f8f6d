//! Decodes that take too long. A thread that decodes cannot be stopped, but it can be given up on: its picture is
//! answered with an error, and another thread takes its place. It keeps its share of the memory until it comes back,
//! and then it ends. How many threads may be lost so at once is bounded: beyond that the others do their work.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Threads that may be lost to pictures at once, each replaced by another.
const MOST_LOST: usize = 8;

/// What one thread has before it.
enum Work<T> {
    Nothing,
    Picture {
        ticket: T,
        /// `None` while it waits for memory.
        since: Option<Instant>,
    },
    GivenUp {
        replaced: bool,
    },
}

/// A decoding thread's place. `T` is what its caller is answered through.
pub(super) struct Desk<T>(Mutex<Work<T>>);

/// How a decode ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End<T> {
    /// In time.
    Done(T),
    /// Its caller has been told. `replaced`: another thread has this one's place.
    TooLate { replaced: bool },
}

impl<T> Desk<T> {
    /// The thread turns to a picture.
    pub(super) fn begin(&self, ticket: T) {
        *self.0.lock() = Work::Picture { ticket, since: Some(Instant::now()) };
    }

    /// Waits for something that is not the picture's fault: its time begins anew afterwards.
    pub(super) fn aside<R>(&self, wait: impl FnOnce() -> R) -> R {
        self.set(None);
        let waited = wait();
        self.set(Some(Instant::now()));
        waited
    }

    fn set(&self, time: Option<Instant>) {
        if let Work::Picture { since, .. } = &mut *self.0.lock() {
            *since = time;
        }
    }

    /// The thread has come back from its picture.
    pub(super) fn end(&self) -> End<T> {
        match std::mem::replace(&mut *self.0.lock(), Work::Nothing) {
            Work::Picture { ticket, .. } => End::Done(ticket),
            Work::GivenUp { replaced } => End::TooLate { replaced },
            // Nothing was begun: there is nobody to tell.
            Work::Nothing => End::TooLate { replaced: false },
        }
    }

    /// Gives the picture up if it has taken longer than `patience`.
    fn overdue(&self, patience: Duration, replaced: bool) -> Option<T> {
        let mut work = self.0.lock();
        match &*work {
            Work::Picture { since: Some(since), .. } if since.elapsed() > patience => {}
            _ => return None,
        }
        match std::mem::replace(&mut *work, Work::GivenUp { replaced }) {
            Work::Picture { ticket, .. } => Some(ticket),
            Work::Nothing | Work::GivenUp { .. } => None,
        }
    }

    fn is_lost(&self) -> bool {
        matches!(*self.0.lock(), Work::GivenUp { replaced: true })
    }
}

/// A picture that was given up on.
pub(super) struct Overdue<T> {
    /// Whom to tell.
    pub(super) ticket: T,
    /// Whether a new thread has to take the place.
    pub(super) replace: bool,
}

/// The desks of all threads that decode.
pub(super) struct Watch<T> {
    patience: Duration,
    desks: Mutex<Vec<Weak<Desk<T>>>>,
}

impl<T> Watch<T> {
    /// A decode may take `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        Self { patience, desks: Mutex::default() }
    }

    /// How long a decode may take.
    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// How often to look: so that a decode takes little more than it may.
    pub(super) fn period(&self) -> Duration {
        (self.patience / 8).clamp(Duration::from_millis(5), Duration::from_secs(1))
    }

    /// A place for a thread, until it is dropped.
    pub(super) fn desk(&self) -> Arc<Desk<T>> {
        let desk = Arc::new(Desk(Mutex::new(Work::Nothing)));
        self.desks.lock().push(Arc::downgrade(&desk));
        desk
    }

    /// Gives up on what has taken too long.
    pub(super) fn look(&self) -> Vec<Overdue<T>> {
        let mut desks = self.desks.lock();
        desks.retain(|desk| desk.strong_count() > 0);
        let all: Vec<_> = desks.iter().filter_map(Weak::upgrade).collect();
        let mut lost = all.iter().filter(|desk| desk.is_lost()).count();
        let look = |desk: Arc<Desk<T>>| {
            let replace = lost < MOST_LOST;
            let ticket = desk.overdue(self.patience, replace)?;
            lost += usize::from(replace);
            Some(Overdue { ticket, replace })
        };
        all.into_iter().filter_map(look).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_millis(20);

    fn overdue<T>(watch: &Watch<T>) -> Vec<(T, bool)> {
        watch.look().into_iter().map(|o| (o.ticket, o.replace)).collect()
    }

    #[test]
    fn only_what_takes_too_long_is_given_up() {
        let watch = Watch::new(PATIENCE);
        let (slow, quick, waits) = (watch.desk(), watch.desk(), watch.desk());
        slow.begin("slow");
        waits.begin("waits");
        waits.aside(|| {
            std::thread::sleep(PATIENCE * 2);
            quick.begin("quick");
            assert_eq!(overdue(&watch), [("slow", true)]);
        });
        assert!(overdue(&watch).is_empty(), "once");
        assert_eq!(slow.end(), End::TooLate { replaced: true });
        assert_eq!((quick.end(), waits.end()), (End::Done("quick"), End::Done("waits")));
    }

    #[test]
    fn as_many_threads_are_replaced_as_may_be_lost() {
        let watch = Watch::new(PATIENCE);
        let desks: Vec<_> = (0..MOST_LOST + 2).map(|_| watch.desk()).collect();
        desks.iter().for_each(|desk| desk.begin(()));
        std::thread::sleep(PATIENCE * 2);
        assert_eq!(watch.look().iter().filter(|o| o.replace).count(), MOST_LOST);
        let stays = desks.iter().map(|desk| desk.end()).filter(|end| *end == End::TooLate { replaced: false });
        assert_eq!(stays.count(), 2, "they were not replaced, so they go on");
        // Those that came back count no more.
        desks[0].begin(());
        std::thread::sleep(PATIENCE * 2);
        assert_eq!(overdue(&watch), [((), true)]);
        drop(desks);
        assert!(watch.look().is_empty() && watch.desks.lock().is_empty());
    }
}
