//! The result of a run: as JSON, in seconds and bytes, and as tables.

use std::time::Duration;

use serde_json::{Value, json};

use super::drive::Run;
use super::servers::Cost;
use crate::table::{Align, Table};
use crate::text::{duration, thousands};

/// What a run did and cost.
#[derive(Debug)]
pub(super) struct Report {
    /// "ingest" or "search".
    pub(super) kind: &'static str,
    pub(super) collection: String,
    pub(super) clients: usize,
    /// Of an open loop.
    pub(super) rate: Option<f64>,
    pub(super) run: Run,
    /// Ingest: until all images were in the graphs of all replicas.
    pub(super) settled: Option<Duration>,
    pub(super) recall: Option<Recall>,
    pub(super) servers: Vec<Cost>,
    /// CPU time of the load generator itself.
    pub(super) own_cpu_seconds: Option<f64>,
}

/// Over all answers whose exact answer is known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Recall {
    pub(super) k: usize,
    pub(super) mean: f64,
    pub(super) worst: f64,
    pub(super) answers: u64,
}

impl Report {
    fn per_second(&self, n: u64) -> f64 {
        n as f64 / self.run.took.as_secs_f64().max(1e-9)
    }

    /// CPU milliseconds of all watched servers for each image or query; `None` if none was watched or answered.
    fn cpu_millis_each(&self) -> Option<f64> {
        let images = self.run.tally.images;
        let seconds: f64 = self.servers.iter().map(|cost| cost.cpu_seconds).sum();
        (images > 0 && !self.servers.is_empty()).then(|| seconds * 1e3 / images as f64)
    }

    pub(super) fn json(&self) -> Value {
        let tally = &self.run.tally;
        let seconds = |d: Duration| d.as_secs_f64();
        let latency = tally.latency().map(|l| {
            json!({
                "p50": seconds(l.p50), "p90": seconds(l.p90), "p99": seconds(l.p99), "p99_9": seconds(l.p99_9),
                "max": seconds(l.max), "mean": seconds(l.mean),
            })
        });
        let servers = self.servers.iter().map(|cost| {
            json!({
                "name": cost.name, "cpu_seconds": cost.cpu_seconds, "resident_bytes": cost.resident_bytes,
                "metrics": cost.metrics,
            })
        });
        json!({
            "kind": self.kind,
            "collection": self.collection,
            "clients": self.clients,
            "rate": self.rate,
            "seconds": seconds(self.run.took),
            "settled_seconds": self.settled.map(seconds),
            "requests": tally.succeeded(),
            "images": tally.images,
            "images_per_second": self.per_second(tally.images),
            "requests_per_second": self.per_second(tally.succeeded()),
            "latency": latency,
            "latest_start": seconds(tally.latest_start),
            "errors": tally.errors,
            "recall": self.recall.map(|r| json!({ "k": r.k, "mean": r.mean, "worst": r.worst, "answers": r.answers })),
            "servers": servers.collect::<Vec<_>>(),
            "server_cpu_milliseconds_each": self.cpu_millis_each(),
            "own_cpu_seconds": self.own_cpu_seconds,
        })
    }

    pub(super) fn human(&self) -> String {
        let mut out = self.summary();
        if let Some(l) = self.run.tally.latency() {
            let parts = [("p50", l.p50), ("p90", l.p90), ("p99", l.p99), ("p99.9", l.p99_9), ("max", l.max)];
            let mut table = Table::new(&parts.map(|(name, _)| (name, Align::Right)));
            table.row(parts.map(|(_, value)| duration(value)));
            out.push_str(&format!("\n{}", table.render()));
        }
        if !self.run.tally.errors.is_empty() {
            let mut table = Table::new(&[("error", Align::Left), ("requests", Align::Right)]);
            self.run.tally.errors.iter().for_each(|(code, n)| table.row([code.clone(), thousands(*n)]));
            out.push_str(&format!("\n{}", table.render()));
        }
        if !self.servers.is_empty() {
            out.push_str(&format!("\n{}", self.servers_table()));
        }
        out
    }

    fn summary(&self) -> String {
        let (tally, took) = (&self.run.tally, duration(self.run.took));
        let how = match self.rate {
            Some(rate) => format!("{rate} requests/s due, {} at a time at most", self.clients),
            None => format!("{} clients", self.clients),
        };
        let what = if self.kind == "search" { "queries" } else { "images" };
        let mut out = format!(
            "{}: {} {what} in {took} ({how}): {:.1} {what}/s, {} failed.\n",
            self.collection,
            thousands(tally.images),
            self.per_second(tally.images),
            thousands(tally.error_count()),
        );
        if let Some(settled) = self.settled {
            out.push_str(&format!("In the graphs of all replicas after {}.\n", duration(settled)));
        }
        if let Some(r) = self.recall {
            let Recall { k, mean, worst, answers } = r;
            out.push_str(&format!(
                "Recall@{k} {mean:.4}, of the worst answer {worst:.2}, over {} answers.\n",
                thousands(answers)
            ));
        }
        if self.rate.is_some() && tally.latest_start > Duration::from_millis(10) {
            let late = duration(tally.latest_start);
            out.push_str(&format!("Requests began up to {late} after they were due, which their latencies count.\n"));
        }
        out
    }

    fn servers_table(&self) -> String {
        let columns = [("server", Align::Left), ("CPU", Align::Right), ("memory", Align::Right)];
        let mut table = Table::new(&columns);
        for cost in &self.servers {
            let memory = format!("{:.1} MiB", cost.resident_bytes / f64::from(1 << 20));
            table.row([cost.name.clone(), format!("{:.2} s", cost.cpu_seconds), memory]);
        }
        let mut out = table.render();
        if let Some(each) = self.cpu_millis_each() {
            let what = if self.kind == "search" { "query" } else { "image" };
            out.push_str(&format!("{each:.3} ms of the servers' CPU for each {what}"));
            match self.own_cpu_seconds {
                Some(own) => out.push_str(&format!("; the load generator itself took {own:.2} s.\n")),
                None => out.push_str(".\n"),
            }
        }
        for (name, grew) in self.servers.iter().flat_map(|cost| &cost.metrics) {
            out.push_str(&format!("{name}: +{grew}\n"));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::tally::Tally;
    use super::*;

    fn report() -> Report {
        let mut tally = Tally::new().unwrap();
        (0..100).for_each(|_| tally.done(1, Duration::from_millis(2)));
        tally.failed(&tonic::Status::unavailable("x").into());
        Report {
            kind: "search",
            collection: "bench".into(),
            clients: 4,
            rate: Some(50.0),
            run: Run { tally, took: Duration::from_secs(2) },
            settled: None,
            recall: Some(Recall { k: 10, mean: 0.99, worst: 0.8, answers: 100 }),
            servers: vec![Cost {
                name: "h:1".into(),
                cpu_seconds: 0.25,
                resident_bytes: 1e6,
                metrics: BTreeMap::from([("omma_x".to_owned(), 7.0)]),
            }],
            own_cpu_seconds: Some(0.1),
        }
    }

    #[test]
    fn numbers_are_in_seconds_and_per_operation() {
        let value = report().json();
        let number = |path: &str| value.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        assert_eq!((number("/requests"), number("/images_per_second"), number("/rate")), (100.0, 50.0, 50.0));
        assert!((number("/latency/p99_9") - 0.002).abs() < 1e-5 && (number("/latency/mean") - 0.002).abs() < 1e-5);
        assert_eq!((number("/errors/Unavailable"), number("/recall/mean")), (1.0, 0.99));
        assert_eq!((number("/server_cpu_milliseconds_each"), number("/servers/0/metrics/omma_x")), (2.5, 7.0));
        assert_eq!(value["settled_seconds"], Value::Null);
    }

    #[test]
    fn people_read_the_same() {
        let text = report().human();
        for part in [
            "bench: 100 queries in 2.0 s (50 requests/s due, 4 at a time at most): 50.0 queries/s, 1 failed.",
            "Recall@10 0.9900, of the worst answer 0.80, over 100 answers.",
            "P99.9",
            "Unavailable",
            "2.500 ms of the servers' CPU for each query; the load generator itself took 0.10 s.",
            "omma_x: +7",
        ] {
            assert!(text.contains(part), "no {part:?} in:\n{text}");
        }
    }
}
