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
    /// What one address may have of the connections, and of the handshakes, in percent; beyond it a new one takes the place
    /// of another of that address. Of IPv6 addresses the first 64 bits count. Behind a load balancer all clients may have
    /// one address: 100 leaves it everything.
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = ConnectionLimits::default().per_address,
        value_parser = clap::value_parser!(u8).range(1..=100)
    )]
    pub max_percent_per_address: u8,
    /// Longest TLS handshake, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = ConnectionLimits::default().handshake.as_secs())]
    pub handshake_seconds: u64,
    /// A connection without a request for so many seconds is closed.
    #[arg(long, value_name = "SECONDS", default_value_t = ConnectionLimits::default().idle.as_secs())]
    pub idle_connection_seconds: u64,
    /// A connection that is so many seconds old takes no more requests: the next makes another, under the certificates of
    /// then. What is under way has a quarter of that to end, a minute at least; then the connection is closed.
    #[arg(long, value_name = "SECONDS", default_value_t = ConnectionLimits::default().age.as_secs())]
    pub max_connection_age_seconds: u64,
}

impl ConnectionArgs {
    /// The limits these flags ask for.
    pub fn limits(&self) -> ConnectionLimits {
        ConnectionLimits {
            connections: self.max_connections.max(1),
            handshakes: self.max_handshakes.max(1),
            per_address: self.max_percent_per_address.clamp(1, 100),
            handshake: Duration::from_secs(self.handshake_seconds.max(1)),
            idle: Duration::from_secs(self.idle_connection_seconds.max(1)),
            age: Duration::from_secs(self.max_connection_age_seconds.max(1)),
            ..ConnectionLimits::default()
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
    /// Of both, what one address may have, in percent.
    pub per_address: u8,
    /// Longest TLS handshake.
    pub handshake: Duration,
    /// Longest time without a request.
    pub idle: Duration,
    /// Until a connection takes no more requests.
    pub age: Duration,
    /// Until an answer of which nothing is taken is ended; half as long again at most.
    pub unread: Duration,
}

impl ConnectionLimits {
    /// Of `most`, what one address may have.
    pub(super) fn share(&self, most: usize) -> usize {
        (most.saturating_mul(self.per_address.into()) / 100).max(1)
    }

    /// For what is under way on a connection that takes no more: longer than any request may take, and long enough for a
    /// snapshot that is being sent.
    pub(super) fn grace(&self) -> Duration {
        (self.age / 4).max(Duration::from_secs(60))
    }
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 4096,
            handshakes: 256,
            per_address: 50,
            handshake: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            age: Duration::from_secs(3600),
            unread: Duration::from_secs(300),
        }
    }
}
