//! One signal that ends a process in order.

use tokio::sync::watch;

/// The side that ends things. Dropping it ends them too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// The side that waits; clone it freely.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A trigger and what waits for it.
pub fn channel() -> (Trigger, Shutdown) {
    let (tx, rx) = watch::channel(false);
    (Trigger(tx), Shutdown(rx))
}

impl Trigger {
    /// Begins the shutdown.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Fires on SIGINT or SIGTERM.
    pub fn on_signals() -> Self {
        let (trigger, shutdown) = channel();
        tokio::spawn(async move {
            wait_for_signal().await;
            trigger.fire();
        });
        shutdown
    }

    /// Returns when the shutdown has begun.
    pub async fn begun(mut self) {
        // An error means that the trigger is gone, which is the same thing.
        let _ = self.0.wait_for(|fired| *fired).await;
    }

    /// Whether it has begun.
    pub fn has_begun(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

async fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (term, int) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    match (term, int) {
        (Ok(mut term), Ok(mut int)) => {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        }
        // Without handlers the default action ends the process, which is what was asked for.
        _ => std::future::pending().await,
    }
}
