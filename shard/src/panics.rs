//! What becomes of the panics of some work, before the unwinding begins. One hook for all who want to know, as hooks cannot
//! be set side by side.

use std::cell::RefCell;
use std::panic::PanicHookInfo;
use std::rc::Rc;
use std::sync::Once;

/// Hears of a panic. `true`: what was done about panics before is left out, which is to print them.
type Ear = Rc<dyn Fn(&PanicHookInfo<'_>) -> bool>;

thread_local! {
    /// Who hears of this thread's panics.
    static EAR: RefCell<Option<Ear>> = const { RefCell::new(None) };
}

/// Puts back who heard before, however the work ends.
struct Hearing(Option<Ear>);

impl Drop for Hearing {
    fn drop(&mut self) {
        EAR.replace(self.0.take());
    }
}

/// Does `work`; `ear` hears of its panics, as far as they are this thread's. It must not panic itself.
pub(crate) fn heard<T>(ear: impl Fn(&PanicHookInfo<'_>) -> bool + 'static, work: impl FnOnce() -> T) -> T {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(listen);
    let _before = Hearing(EAR.replace(Some(Rc::new(ear))));
    work()
}

fn listen() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // A thread that ends has none any more, and a panic here would end the process.
        let ear = EAR.try_with(|ear| ear.try_borrow().ok().and_then(|ear| ear.clone())).ok().flatten();
        if !ear.is_some_and(|ear| ear(panic)) {
            before(panic);
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_at_the_end_of_a_thread_is_survived() {
        struct Late;
        impl Drop for Late {
            fn drop(&mut self) {
                // By now this thread's ear is gone, or was never there.
                assert!(catch_unwind(|| panic!("late")).is_err());
            }
        }
        thread_local!(static LATE: Late = const { Late });
        let thread = std::thread::spawn(|| {
            LATE.with(|_| {});
            heard(|_| true, || drop(catch_unwind(|| panic!("heard"))));
        });
        thread.join().unwrap();
    }

    #[test]
    fn panics_are_heard_by_whoever_asked_last() {
        let count = Rc::new(Cell::new(0));
        let ear = |by: u32| {
            let count = count.clone();
            move |_: &PanicHookInfo<'_>| {
                count.set(count.get() + by);
                true
            }
        };
        let fails = || drop(catch_unwind(|| panic!("heard")));
        heard(ear(1), || {
            fails();
            let inner = || heard(ear(10), || panic!("not caught within"));
            assert!(catch_unwind(AssertUnwindSafe(inner)).is_err());
            fails();
        });
        assert_eq!(count.get(), 12);
    }
}
