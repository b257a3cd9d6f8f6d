//! Numbers for Prometheus. The only folder that names the metrics library.
//!
//! What happens is counted where it happens, in statics that [`crate::metrics!`] declares: an atomic addition each.
//! What *is* (queue lengths, indexes, sizes) is asked for when somebody looks: see [`Scrape`]. Names begin with
//! `omma_` and end in their unit; labels take few values, never ids of users' things.

mod process;
mod scrape;

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

pub(crate) use process::note_start;
pub use process::{Taken, taken};
pub use scrape::Scrape;

/// Bounds of histograms of seconds: 0.25 ms to 10 s.
pub const SECONDS: &[f64] =
    &[0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Bounds of histograms of how many: 1 to 1024.
pub const COUNTS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// What all servers of this process count.
static REGISTRY: LazyLock<Registry> = LazyLock::new(Registry::new);

/// Registers a metric. A name that is no name, or taken, is a mistake in this program: the metric then counts nothing.
fn registered<M: Collector + Clone + 'static>(name: &str, made: prometheus::Result<M>) -> Option<M> {
    let registered = made.and_then(|metric| REGISTRY.register(Box::new(metric.clone())).map(|()| metric));
    registered.inspect_err(|error| tracing::error!(name, %error, "a metric is not counted")).ok()
}

/// Only goes up.
#[derive(Debug, Clone)]
pub struct Counter(Option<IntCounter>);

impl Counter {
    /// A new one. Its name ends in `_total`.
    pub fn new(name: &'static str, help: &'static str) -> Self {
        Self(registered(name, IntCounter::new(name, help)))
    }

    /// One more.
    pub fn inc(&self) {
        self.add(1);
    }

    /// So many more.
    pub fn add(&self, n: u64) {
        if let Some(counter) = &self.0 {
            counter.inc_by(n);
        }
    }

    /// So far.
    pub fn get(&self) -> u64 {
        self.0.as_ref().map_or(0, IntCounter::get)
    }
}

/// Counters that differ in their labels.
#[derive(Debug, Clone)]
pub struct Counters(Option<IntCounterVec>);

impl Counters {
    /// A new family.
    pub fn new(name: &'static str, help: &'static str, labels: &[&str]) -> Self {
        Self(registered(name, IntCounterVec::new(Opts::new(name, help), labels)))
    }

    /// A family of one label whose values are known: all are visible from the start, so that rates are right from the
    /// first event on.
    pub fn of(name: &'static str, help: &'static str, label: &str, values: &[&str]) -> Self {
        let family = Self::new(name, help, &[label]);
        values.iter().for_each(|value| family.with(&[value]).add(0));
        family
    }

    /// The one with these labels, in the order of the family's. Takes a lock: keep it where it is needed often.
    pub fn with(&self, labels: &[&str]) -> Counter {
        Counter(self.0.as_ref().and_then(|family| family.get_metric_with_label_values(labels).ok()))
    }
}

/// Goes up and down.
#[derive(Debug, Clone)]
pub struct Gauge(Option<IntGauge>);

impl Gauge {
    /// A new one.
    pub fn new(name: &'static str, help: &'static str) -> Self {
        Self(registered(name, IntGauge::new(name, help)))
    }

    /// By so many, down if negative.
    pub fn add(&self, n: i64) {
        if let Some(gauge) = &self.0 {
            gauge.add(n);
        }
    }

    /// To so many.
    pub fn set(&self, value: i64) {
        if let Some(gauge) = &self.0 {
            gauge.set(value);
        }
    }

    /// Now.
    pub fn get(&self) -> i64 {
        self.0.as_ref().map_or(0, IntGauge::get)
    }
}

/// Gauges that differ in their labels.
#[derive(Debug, Clone)]
pub struct Gauges(Option<IntGaugeVec>);

impl Gauges {
    /// A new family.
    pub fn new(name: &'static str, help: &'static str, labels: &[&str]) -> Self {
        Self(registered(name, IntGaugeVec::new(Opts::new(name, help), labels)))
    }

    /// As [`Counters::of`].
    pub fn of(name: &'static str, help: &'static str, label: &str, values: &[&str]) -> Self {
        let family = Self::new(name, help, &[label]);
        values.iter().for_each(|value| family.with(&[value]).set(0));
        family
    }

    /// As [`Counters::with`].
    pub fn with(&self, labels: &[&str]) -> Gauge {
        Gauge(self.0.as_ref().and_then(|family| family.get_metric_with_label_values(labels).ok()))
    }
}

/// How values are spread.
#[derive(Debug, Clone)]
pub struct Histogram(Option<prometheus::Histogram>);

impl Histogram {
    /// A new one with upper bounds, such as [`SECONDS`] or [`COUNTS`].
    pub fn new(name: &'static str, help: &'static str, bounds: &[f64]) -> Self {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        Self(registered(name, prometheus::Histogram::with_opts(options)))
    }

    /// Adds a value.
    pub fn observe(&self, value: f64) {
        if let Some(histogram) = &self.0 {
            histogram.observe(value);
        }
    }

    /// Adds a time, in seconds.
    pub fn took(&self, time: Duration) {
        self.observe(time.as_secs_f64());
    }

    /// Values so far.
    pub fn count(&self) -> u64 {
        self.0.as_ref().map_or(0, prometheus::Histogram::get_sample_count)
    }
}

/// Histograms that differ in their labels.
#[derive(Debug, Clone)]
pub struct Histograms(Option<HistogramVec>);

impl Histograms {
    /// A new family.
    pub fn new(name: &'static str, help: &'static str, labels: &[&str], bounds: &[f64]) -> Self {
        let options = HistogramOpts::new(name, help).buckets(bounds.to_vec());
        Self(registered(name, HistogramVec::new(options, labels)))
    }

    /// As [`Counters::with`].
    pub fn with(&self, labels: &[&str]) -> Histogram {
        Histogram(self.0.as_ref().and_then(|family| family.get_metric_with_label_values(labels).ok()))
    }
}

/// Declares statics that count, and `init`, which makes all of them visible before anything was counted:
///
/// ```
/// omma_common::metrics! {
///     /// Doors opened.
///     DOORS: Counter = Counter::new("omma_doors_total", "Doors opened.");
/// }
/// init();
/// DOORS.inc();
/// assert_eq!(DOORS.get(), 1);
/// ```
#[macro_export]
macro_rules! metrics {
    ($($(#[$doc:meta])* $name:ident: $kind:ident = $make:expr;)*) => {
        use $crate::metrics::*;
        $($(#[$doc])* pub(crate) static $name: std::sync::LazyLock<$kind> = std::sync::LazyLock::new(|| $make);)*
        /// Makes all of these visible.
        pub(crate) fn init() {
            $(std::sync::LazyLock::force(&$name);)*
        }
    };
}

/// Everything counted so far, and what `scrape` holds, in Prometheus's text format.
pub(crate) fn render(mut scrape: Scrape) -> String {
    process::scrape(&mut scrape);
    let mut families = REGISTRY.gather();
    families.retain(|family| !family.get_metric().is_empty());
    families.extend(scrape.into_families());
    prometheus::TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| {
        tracing::error!(%error, "the metrics cannot be written");
        String::new()
    })
}

/// `Content-Type` of [`render`].
pub(crate) const TEXT_FORMAT: &str = prometheus::TEXT_FORMAT;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_shown() {
        let family = Counters::new("omma_test_things_total", "Things.", &["kind"]);
        family.with(&["a"]).add(3);
        let seconds = Histogram::new("omma_test_seconds", "Time.", SECONDS);
        seconds.took(Duration::from_millis(3));
        let mut scrape = Scrape::default();
        scrape.gauge("omma_test_now", "Now.", &[("group", "2")], 1.5);
        scrape.gauge("omma_test_now", "Now.", &[("group", "3")], 2.0);
        let text = render(scrape);
        for line in [
            "omma_test_things_total{kind=\"a\"} 3",
            "omma_test_seconds_bucket{le=\"0.0025\"} 0",
            "omma_test_seconds_bucket{le=\"0.005\"} 1",
            "omma_test_seconds_count 1",
            "# TYPE omma_test_now gauge",
            "omma_test_now{group=\"2\"} 1.5",
            "omma_test_now{group=\"3\"} 2",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line} in:\n{text}");
        }
        assert_eq!(text.matches("# TYPE omma_test_now gauge").count(), 1);
    }

    #[test]
    fn a_name_that_is_taken_counts_nothing_and_harms_nobody() {
        let first = Counter::new("omma_test_twice_total", "First.");
        let second = Counter::new("omma_test_twice_total", "Second.");
        first.inc();
        second.inc();
        assert_eq!((first.get(), second.get()), (1, 0));
    }
}
