//! Waiting between tries.

use std::time::Duration;

use rand::Rng;

use crate::deadline::Deadline;

/// Exponential backoff with full jitter: each wait is drawn from 0 to a ceiling that doubles.
#[derive(Debug, Clone)]
pub struct Backoff {
    ceiling: Duration,
    most: Duration,
}

impl Backoff {
    /// First ceiling and last.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { ceiling: first, most }
    }

    /// For calls inside a cluster: 10 ms to 200 ms, well below an election.
    pub fn in_cluster() -> Self {
        Self::new(Duration::from_millis(10), Duration::from_millis(200))
    }

    /// The next wait.
    pub fn next_wait(&mut self) -> Duration {
        let wait = self.ceiling.mul_f64(rand::rng().random_range(0.25..=1.0));
        self.ceiling = (self.ceiling * 2).min(self.most);
        wait
    }

    /// Sleeps; `false` at once if the deadline would pass meanwhile.
    pub async fn sleep(&mut self, deadline: Deadline) -> bool {
        let wait = self.next_wait();
        if wait >= deadline.left() {
            return false;
        }
        tokio::time::sleep(wait).await;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        let most = Duration::from_millis(80);
        let mut backoff = Backoff::new(Duration::from_millis(10), most);
        let waits: Vec<_> = (0..20).map(|_| backoff.next_wait()).collect();
        assert!(waits[0] <= Duration::from_millis(10));
        assert!(waits.iter().all(|w| *w <= most));
        assert!(waits[10..].iter().all(|w| *w >= most.mul_f64(0.25)));
    }
}
