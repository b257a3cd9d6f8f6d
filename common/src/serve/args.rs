//! What a deployment may tune about connections.

use std::time::Duration;

/// Flags about connections.
#[derive(Debug, Clone, clap::Args)]
pub struct ConnectionArgs {
    /// Connections open at once; beyond them a new one takes the place of the one that idled longest, or is closed.
    #[arg(long, value_name = "CONNECTIONS", default_value_t = ConnectionLimits::default().connections)]
    pub max_connections: usize,
    /// TLS handshakes under way at once; beyond them the oldest gives way.
    #[arg(long, value_name = "HANDSHAKES", default_value_t = ConnectionLimits::default().handshakes)]
    pub max_handshakes: usize,
    /// Longest TLS handshake, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = ConnectionLimits::default().handshake.as_secs())]
    pub handshake_seconds: u64,
    /// A connection without a request for so many seconds is closed.
    #[arg(long, value_name = "SECONDS", default_value_t = ConnectionLimits::default().idle.as_secs())]
    pub idle_connection_seconds: u64,
}

impl ConnectionArgs {
    /// The limits these flags ask for.
    pub fn limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            connections: self.max_connections.max(1),
            handshakes: self.max_handshakes.max(1),
            handshake: Duration::from_secs(self.handshake_seconds.max(1)),
            idle: Duration::from_secs(self.idle_connection_seconds.max(1)),
        }
    }
}

/// Bounds of a server's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Open at once.
    pub connections: usize,
    /// TLS handshakes under way at once.
    pub handshakes: usize,
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Longest time without a request.
    pub idle: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self { connections: 4096, handshakes: 256, handshake: Duration::from_secs(10), idle: Duration::from_secs(300) }
    }
}
