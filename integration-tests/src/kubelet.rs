//! What Kubernetes would see of a process, and do to it: its three probes, asked as a kubelet asks them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};

use crate::admin;

/// How a probe is asked, as in the chart (`helm/templates/_pods.tpl`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probe {
    path: &'static str,
    period: Duration,
    patience: Duration,
    /// Failures in a row that count.
    threshold: u32,
}

const SECOND: Duration = Duration::from_secs(1);
const STARTUP: Probe = Probe { path: "/startupz", period: SECOND.saturating_mul(2), ..LIVENESS };
const LIVENESS: Probe =
    Probe { path: "/livez", period: SECOND.saturating_mul(10), patience: SECOND.saturating_mul(5), threshold: 6 };
const READINESS: Probe =
    Probe { path: "/readyz", period: SECOND.saturating_mul(3), patience: SECOND.saturating_mul(3), threshold: 2 };

impl Probe {
    /// Its turns: one that takes long does not delay the next.
    fn turns(self) -> Interval {
        let mut turns = interval(self.period);
        turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
        turns
    }
}

/// A change that Kubernetes would act upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// The other two probes begin.
    Started,
    /// It gets traffic.
    Ready,
    /// It gets none any more.
    NotReady(String),
    /// It is killed and started anew.
    Killed(String),
}

/// Counts a probe's failures.
#[derive(Debug, Default)]
struct Count(u32);

impl Count {
    /// Whether this failure makes the threshold full.
    fn failed(&mut self, threshold: u32) -> bool {
        self.0 += 1;
        self.0 == threshold
    }
}

/// Watches one process. Dropping it ends that.
#[derive(Debug)]
pub struct Kubelet {
    seen: Arc<Mutex<Vec<(Duration, Seen)>>>,
    task: JoinHandle<()>,
}

impl Kubelet {
    /// Begins to ask the admin port at `address`, as for a container that was just started.
    pub fn watch(address: &str) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (address, log, begun) = (address.to_owned(), seen.clone(), Instant::now());
        let note = move |what| log.lock().unwrap_or_else(PoisonError::into_inner).push((begun.elapsed(), what));
        let task = tokio::spawn(async move {
            let mut turns = STARTUP.turns();
            loop {
                turns.tick().await;
                if ask(&address, STARTUP).await.is_ok() {
                    break;
                }
            }
            note(Seen::Started);
            tokio::join!(live(&address, &note), ready(&address, &note));
        });
        Self { seen, task }
    }

    /// Whether its service names it.
    pub fn ready(&self) -> bool {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let traffic = |what: &Seen| match what {
            Seen::Ready => Some(true),
            Seen::NotReady(_) => Some(false),
            Seen::Started | Seen::Killed(_) => None,
        };
        seen.iter().rev().find_map(|(_, what)| traffic(what)).unwrap_or(false)
    }

    /// All changes so far, with the time since the watch began.
    pub fn seen(&self) -> Vec<(Duration, Seen)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `Err` with the reason unless it answers 200 in time.
async fn ask(address: &str, probe: Probe) -> Result<(), String> {
    match timeout(probe.patience, admin::get(address, probe.path)).await {
        Ok(Ok((200, _))) => Ok(()),
        Ok(Ok((status, body))) => Err(format!("{status}: {}", body.trim())),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err(format!("no answer in {:?}", probe.patience)),
    }
}

async fn live(address: &str, note: &impl Fn(Seen)) {
    let (mut failures, mut turns) = (Count::default(), LIVENESS.turns());
    loop {
        turns.tick().await;
        match ask(address, LIVENESS).await {
            Ok(()) => failures = Count::default(),
            Err(why) if failures.failed(LIVENESS.threshold) => note(Seen::Killed(why)),
            Err(_) => {}
        }
    }
}

async fn ready(address: &str, note: &impl Fn(Seen)) {
    let (mut failures, mut ready, mut turns) = (Count::default(), false, READINESS.turns());
    loop {
        turns.tick().await;
        match ask(address, READINESS).await {
            Ok(()) => {
                failures = Count::default();
                if !std::mem::replace(&mut ready, true) {
                    note(Seen::Ready);
                }
            }
            Err(why) => {
                if failures.failed(READINESS.threshold) && std::mem::take(&mut ready) {
                    note(Seen::NotReady(why));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folders::repository;

    #[test]
    fn asks_as_the_chart_says() {
        let chart = std::fs::read_to_string(repository().join("helm/templates/_pods.tpl")).unwrap();
        for (name, probe) in [("livenessProbe", LIVENESS), ("readinessProbe", READINESS)] {
            let (path, period) = (probe.path, probe.period.as_secs());
            let (patience, threshold) = (probe.patience.as_secs(), probe.threshold);
            let block = format!(
                "{name}:\n  httpGet: {{path: {path}, port: admin}}\n  periodSeconds: {period}\n  \
                 timeoutSeconds: {patience}\n  failureThreshold: {threshold}\n"
            );
            assert!(chart.contains(&block), "not in the chart:\n{block}");
        }
        assert!(chart.contains("startupProbe:\n  httpGet: {path: /startupz, port: admin}\n  periodSeconds: 2\n"));
    }

    #[tokio::test]
    async fn nobody_there_is_never_started() {
        let nobody = Kubelet::watch("127.0.0.1:1");
        tokio::time::sleep(SECOND / 5).await;
        assert_eq!((nobody.seen(), nobody.ready()), (vec![], false));
    }
}
