//! The admin port: metrics and probes over plain HTTP, for machines that watch. It serves no data of users.
//!
//! | path | 200 when |
//! |---|---|
//! | `/metrics` | always: Prometheus's text format |
//! | `/startupz` | the process answers and what it read from disk at its start is applied |
//! | `/livez` | the event loop answers |
//! | `/readyz` | it can serve or forward; says nothing about the rest of the cluster |
//! | `/buildz` | always: the version |

mod http;
mod vitals;

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use vitals::{Subject, Vitals};

/// What `--admin-listen` says when there is to be no admin port.
pub const OFF: &str = "off";

/// The admin port cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for metrics and probes: {source}; choose another --admin-listen, or off")]
pub struct AdminError {
    /// As given.
    pub address: String,
    /// Why.
    pub source: std::io::Error,
}

/// A served admin port; closed when dropped.
#[derive(Debug)]
#[must_use = "the port is closed when this is dropped"]
pub struct Admin {
    address: SocketAddr,
    task: JoinHandle<()>,
    delay: JoinHandle<()>,
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.task.abort();
        self.delay.abort();
    }
}

impl Admin {
    /// Serves what `vitals` show on `listen`; does nothing if that is [`OFF`] or empty. Port 0 takes a free port.
    pub async fn serve(listen: &str, vitals: Vec<Vitals>) -> Result<Option<Self>, AdminError> {
        crate::metrics::note_start();
        crate::tls::show_stale_files();
        if matches!(listen, OFF | "") {
            return Ok(None);
        }
        let failed = |source| AdminError { address: listen.to_owned(), source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        tracing::info!(%address, "admin port: /metrics, /startupz, /livez, /readyz, /buildz");
        let task = tokio::spawn(http::serve(listener, vitals));
        Ok(Some(Self { address, task, delay: tokio::spawn(http::watch_event_loop()) }))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}
