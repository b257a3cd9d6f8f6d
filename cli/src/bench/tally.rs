//! What happened: counts, errors by code, latencies.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use omma_client::ClientError;

/// Latencies are kept to this many digits.
const DIGITS: u8 = 3;

/// Of the operations of one run.
#[derive(Debug)]
pub(super) struct Tally {
    /// In microseconds, of those that succeeded.
    latencies: Histogram<u64>,
    /// Images of those that succeeded; one for a search.
    pub(super) images: u64,
    /// By code, with the reason if there is one.
    pub(super) errors: BTreeMap<String, u64>,
    /// The latest that an operation of an open loop began after it should have.
    pub(super) latest_start: Duration,
}

/// Latencies as they are reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Latency {
    pub(super) p50: Duration,
    pub(super) p90: Duration,
    pub(super) p99: Duration,
    pub(super) p99_9: Duration,
    pub(super) max: Duration,
    pub(super) mean: Duration,
}

impl Tally {
    pub(super) fn new() -> Result<Self, String> {
        let latencies = Histogram::new(DIGITS).map_err(|e| e.to_string())?;
        Ok(Self { latencies, images: 0, errors: BTreeMap::new(), latest_start: Duration::ZERO })
    }

    /// One that succeeded.
    pub(super) fn done(&mut self, images: u64, latency: Duration) {
        self.images += images;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        // It grows as needed; what it cannot hold counts as the largest that it can.
        if self.latencies.record(micros).is_err() {
            self.latencies.saturating_record(micros);
        }
    }

    /// One that did not.
    pub(super) fn failed(&mut self, error: &ClientError) {
        let code = match error.reason() {
            Some(reason) => format!("{:?} {}", error.code(), reason.name()),
            None => format!("{:?}", error.code()),
        };
        *self.errors.entry(code).or_default() += 1;
    }

    pub(super) fn started_late(&mut self, by: Duration) {
        self.latest_start = self.latest_start.max(by);
    }

    /// Operations that succeeded.
    pub(super) fn succeeded(&self) -> u64 {
        self.latencies.len()
    }

    pub(super) fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// `None` if nothing succeeded.
    pub(super) fn latency(&self) -> Option<Latency> {
        let at = |quantile| Duration::from_micros(self.latencies.value_at_quantile(quantile));
        (!self.latencies.is_empty()).then(|| Latency {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: Duration::from_micros(self.latencies.max()),
            mean: Duration::from_secs_f64(self.latencies.mean() / 1e6),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_values() {
        let mut tally = Tally::new().unwrap();
        assert_eq!(tally.latency(), None);
        (1..=1000).for_each(|ms| tally.done(2, Duration::from_millis(ms)));
        let latency = tally.latency().unwrap();
        let near = |d: Duration, ms: f64| (d.as_secs_f64() * 1e3 / ms - 1.0).abs() < 2e-3;
        assert!(near(latency.p50, 500.0) && near(latency.p90, 900.0) && near(latency.p99, 990.0), "{latency:?}");
        assert!(near(latency.p99_9, 999.0) && near(latency.max, 1000.0) && near(latency.mean, 500.5), "{latency:?}");
        assert_eq!((tally.succeeded(), tally.images), (1000, 2000));
    }

    #[test]
    fn errors_are_counted_by_code_and_reason() {
        let mut tally = Tally::new().unwrap();
        tally.failed(&tonic::Status::unavailable("x").into());
        tally.failed(&tonic::Status::unavailable("y").into());
        let overloaded = omma_common::error::ApiError::new(omma_common::error::Reason::Overloaded, "full");
        tally.failed(&overloaded.to_status().into());
        let errors: Vec<_> = tally.errors.iter().map(|(code, n)| (code.as_str(), *n)).collect();
        assert_eq!((errors, tally.error_count()), (vec![("ResourceExhausted OVERLOADED", 1), ("Unavailable", 2)], 3));
    }
}
