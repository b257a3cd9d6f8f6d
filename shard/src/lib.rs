//! Omma's shard node: owns the data, replicates it, searches it, and turns pictures into embeddings.
//!
//! One write, through this crate: [`api`] takes images, [`encoder`] embeds pictures, [`group`] replicates the command,
//! [`images`] applies it, [`index`] finds it. Imports go one way: `api → node → {group, encoder, metadata} → images →
//! index`; nothing imports `api`, and `store` and `format` are at the bottom.

#![deny(unsafe_code)]

mod api;
mod attributes;
mod broken;
mod config;
pub mod encoder;
mod format;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod group;
pub mod images;
pub mod index;
mod memory;
pub mod metadata;
mod metrics;
mod node;
mod panics;
pub mod room;
mod runtime;
pub mod store;

use std::sync::Arc;
use std::time::Duration;

use omma_common::admin::Subject;
use omma_common::shutdown::{self, Shutdown};
use omma_common::tls::args::{SecurityError, peer_dialer, peer_port};
use tokio::net::TcpListener;

pub use api::ServeError;
pub use config::{EncoderArgs, ShardArgs, ShardConfig};
pub use node::{IdentityError, NodeError};
pub use runtime::runtime;

/// A shard node stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It could not start, or a replica of it failed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// Its port or its connections would be open to everybody, or its certificates cannot be used.
    #[error(transparent)]
    Security(#[from] SecurityError),
    /// Its listener is none.
    #[error("the listening address cannot be read: {0}")]
    Listen(#[from] std::io::Error),
    /// It could not serve.
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// Calls under way get this long to end. Peers' streams never end by themselves.
const DRAIN: Duration = Duration::from_secs(3);

/// Runs a shard node on `listener` until the shutdown, and closes it in order.
pub async fn run(listener: TcpListener, config: ShardConfig, shutdown: Shutdown) -> Result<(), RunError> {
    let security = peer_port(config.peer_tls.as_ref(), config.plaintext, listener.local_addr()?)?;
    let dialer = peer_dialer(config.peer_tls.as_ref(), config.plaintext, &config.peers)?;
    metrics::init();
    let vitals = config.vitals.clone();
    let node = tokio::select! {
        opened = node::Node::open(config, dialer) => opened?,
        () = shutdown.clone().begun() => return Ok(()),
    };
    let subject: Arc<dyn Subject> = node.clone();
    vitals.show(&subject);
    drop(subject);
    let life = tokio::spawn(node.clone().live(shutdown.clone()));
    let (stop, stopped) = shutdown::channel();
    let mut serving = tokio::spawn(api::serve(listener, security, node.clone(), stopped));
    let mut failure = None;
    let served = tokio::select! {
        served = &mut serving => Some(served),
        () = shutdown.begun() => None,
        error = node.failed() => {
            tracing::error!(%error, "the node ends");
            failure = Some(error);
            None
        }
    };
    vitals.stopping();
    life.abort();
    // Leadership goes to others while this node can still be heard.
    node.hand_over().await;
    stop.fire();
    let last_calls = async {
        if let Some(in_process) = &node.config.in_process {
            in_process.close(DRAIN).await;
        }
    };
    let last_connections = async {
        match served {
            Some(served) => Some(served),
            None => tokio::time::timeout(DRAIN, &mut serving).await.ok(),
        }
    };
    let ((), served) = tokio::join!(last_calls, last_connections);
    serving.abort();
    if let Some(error) = failure {
        // A store that has failed has nothing more to write, and may never close.
        if tokio::time::timeout(DRAIN, node.close()).await.is_err() {
            tracing::warn!("the node's stores do not close; it ends without that");
        }
        std::mem::forget(node);
        return Err(error.into());
    }
    node.close().await;
    match served {
        Some(Ok(served)) => Ok(served?),
        _ => Ok(()),
    }
}
