//! Panics in code that reads pictures: each costs its picture an error, and all together a few lines of the log.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};

use omma_common::log_limit::{Line, LogLimit};

use crate::panics::heard;

/// Bytes of a panic's text in the log.
const MOST_TEXT: usize = 256;

/// Does `work`; `None` if it panics. What it was given to change may then be in any state.
pub(super) fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    heard(told, || catch_unwind(AssertUnwindSafe(work)).ok())
}

/// Instead of what a panic prints by itself: whoever found one such picture can send it without end.
fn told(panic: &PanicHookInfo<'_>) -> bool {
    static PANICS: LogLimit = LogLimit::new();
    if let Some(Line { skipped }) = PANICS.line() {
        let at = panic.location().map(ToString::to_string);
        let why = panic.payload_as_str().map(shown);
        tracing::warn!(at, why, skipped, "a picture made its decoder panic; it is refused");
    }
    // The fuzzer ends at panics of our own code.
    !cfg!(fuzzing)
}

/// As much of a panic's text as the log gets: a decoder may say in it what the picture says.
fn shown(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_TEXT)]
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::*;

    /// Counts events.
    struct Count(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> Layer<S> for Count {
        fn on_event(&self, _: &tracing::Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_long_text_is_cut_between_letters() {
        assert_eq!(shown("short"), "short");
        let long = format!("x{}", "\u{e9}".repeat(300));
        assert_eq!(shown(&long), &long[..255]);
    }

    #[test]
    fn a_flood_of_panics_is_a_few_lines() {
        let lines = Arc::new(AtomicUsize::new(0));
        let subscriber = tracing_subscriber::registry().with(Count(lines.clone()));
        let begun = std::time::Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..500 {
                assert_eq!(caught(|| panic!("no picture")), None::<()>);
            }
        });
        let most = 21 + (20.0 * begun.elapsed().as_secs_f64()) as usize;
        let lines = lines.load(Ordering::Relaxed);
        assert!((1..=most).contains(&lines), "{lines} lines");
        assert_eq!(caught(|| 7), Some(7));
    }
}
