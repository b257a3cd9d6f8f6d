//! What a coordinator is told on its command line.

use std::path::PathBuf;
use std::time::Duration;

use omma_common::admin::Vitals;
use omma_common::limits::{DEFAULT_DEADLINE_SECONDS, DEFAULT_MAX_PICTURE_BYTES, MAX_DECODED_BYTES};
use omma_common::serve::{ConnectionArgs, ConnectionLimits, InProcess};
use omma_common::tls::args::{PeerTlsArgs, PublicTlsArgs};
use omma_common::tls::{PeerTls, Plaintext, PublicTls};

use crate::access::{AccessConfig, JwtConfig};
use crate::limits::SizeArgs;

/// Least memory for requests: one client may have half of it, which the largest message is to fit in.
const LEAST_ARRIVING_BYTES: usize = 2 * MAX_DECODED_BYTES;

/// Flags of the coordinator.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where to serve the public API; port 0 takes a free port.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7700", env = "OMMA_LISTEN")]
    pub listen: String,
    /// Shard nodes to learn the cluster from: any of them will do, the others are learned.
    #[arg(long, value_name = "HOST:PORT,…", env = "OMMA_SHARD_NODES", value_delimiter = ',', required = true)]
    pub shard_nodes: Vec<String>,
    /// Largest encoded picture that is accepted, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = DEFAULT_MAX_PICTURE_BYTES)]
    pub max_picture_bytes: usize,
    /// What one request may hold.
    #[command(flatten)]
    pub sizes: SizeArgs,
    /// Images of one ingest stream that may be unanswered at once.
    #[arg(long, value_name = "IMAGES", default_value_t = Limits::default().ingest_window)]
    pub ingest_window: usize,
    /// Bytes of one ingest stream's images that may be unanswered at once; one image may always be.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().ingest_bytes)]
    pub ingest_bytes: usize,
    /// Memory for requests from their first byte until they are answered, over all connections, in MiB: their bytes and
    /// what their parts take. A client that has as much of it as is left gets no more. 128 at least.
    #[arg(long, value_name = "MIB", default_value_t = Limits::default().arriving_bytes >> 20)]
    pub max_arriving_mib: usize,
    /// Requests served at once, over all connections; an ingest stream counts as one, and streams have half of
    /// them at most. A client that has as many as are left gets no more.
    #[arg(long, value_name = "REQUESTS", default_value_t = Limits::default().requests)]
    pub max_requests: usize,
    /// Requests of one client served at once: of one key or token, or else of one address;
    /// of IPv6 addresses the first 64 bits count.
    #[arg(long, value_name = "REQUESTS", default_value_t = Limits::default().requests_per_client)]
    pub max_requests_per_client: usize,
    /// Requests of one client a second.
    #[arg(long, value_name = "REQUESTS/S", default_value_t = Limits::default().rate_per_client)]
    pub max_rate_per_client: u32,
    /// Seconds until a request has arrived and its answer begins; else it is given up. No request has more than 30 s
    /// from when it has arrived.
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().request.as_secs())]
    pub max_request_seconds: u64,
    /// An ingest stream that sends nothing for so many seconds, or an answer of which nothing is read for so long, is ended.
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::default().idle_stream.as_secs())]
    pub idle_stream_seconds: u64,
    /// Calls to one shard node at once; a client that has as many as are left waits.
    #[arg(long, value_name = "CALLS", default_value_t = Limits::default().calls_per_node)]
    pub max_calls_per_node: usize,
    /// TLS of the public port.
    #[command(flatten)]
    pub public_tls: PublicTlsArgs,
    /// TLS towards shard nodes.
    #[command(flatten)]
    pub peer_tls: PeerTlsArgs,
    /// Who may do what.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Bounds of clients' connections.
    #[command(flatten)]
    pub connections: ConnectionArgs,
}

impl Args {
    /// The part that [`crate::run`] needs.
    pub fn config(&self) -> CoordinatorConfig {
        CoordinatorConfig {
            limits: Limits {
                picture_bytes: self.max_picture_bytes,
                sizes: self.sizes,
                ingest_window: self.ingest_window.max(1),
                ingest_bytes: self.ingest_bytes.max(1),
                arriving_bytes: (self.max_arriving_mib << 20).max(LEAST_ARRIVING_BYTES),
                requests: self.max_requests.max(1),
                requests_per_client: self.max_requests_per_client.max(1),
                rate_per_client: self.max_rate_per_client.max(1),
                request: Duration::from_secs(self.max_request_seconds.max(1)),
                idle_stream: Duration::from_secs(self.idle_stream_seconds.max(1)),
                calls_per_node: self.max_calls_per_node.max(1),
            },
            public_tls: self.public_tls.files(),
            peer_tls: self.peer_tls.files(),
            plaintext: self.peer_tls.plaintext(),
            access: self.access.config(),
            connections: self.connections.limits(),
            ..CoordinatorConfig::new(self.shard_nodes.clone())
        }
    }
}

/// Flags that say who is let in. With none of them everybody is.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AccessArgs {
    /// File of API keys, hashed; `omma keys new` makes its lines. Loaded anew when it changes.
    #[arg(long, env = "OMMA_API_KEYS", value_name = "FILE")]
    pub api_keys: Option<PathBuf>,
    /// Issuer of the tokens (JWT) that are taken: their iss.
    #[arg(long, env = "OMMA_JWT_ISSUER", value_name = "TEXT", requires_all = ["jwt_audience", "jwt_jwks"])]
    pub jwt_issuer: Option<String>,
    /// For whom tokens must be: their aud.
    #[arg(long, env = "OMMA_JWT_AUDIENCE", value_name = "TEXT", requires_all = ["jwt_issuer", "jwt_jwks"])]
    pub jwt_audience: Option<String>,
    /// The issuer's public keys, a JSON Web Key Set. Loaded anew when it changes.
    #[arg(long, env = "OMMA_JWT_JWKS", value_name = "FILE", requires_all = ["jwt_issuer", "jwt_audience"])]
    pub jwt_jwks: Option<PathBuf>,
}

impl AccessArgs {
    fn config(&self) -> AccessConfig {
        let all = (self.jwt_issuer.clone(), self.jwt_audience.clone(), self.jwt_jwks.clone());
        let jwt = match all {
            (Some(issuer), Some(audience), Some(jwks)) => Some(JwtConfig { issuer, audience, jwks }),
            _ => None,
        };
        AccessConfig { api_keys: self.api_keys.clone(), jwt }
    }
}

/// What a deployment may tune.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Largest encoded picture, in bytes.
    pub picture_bytes: usize,
    /// What one request may hold.
    pub sizes: SizeArgs,
    /// Unanswered images of one ingest stream.
    pub ingest_window: usize,
    /// Bytes of the unanswered images of one ingest stream; one more image is read while they are fewer.
    pub ingest_bytes: usize,
    /// Memory for requests that arrive and are served.
    pub arriving_bytes: usize,
    /// Requests served at once.
    pub requests: usize,
    /// Requests of one client served at once.
    pub requests_per_client: usize,
    /// Requests of one client a second.
    pub rate_per_client: u32,
    /// Until a request has arrived and its answer begins.
    pub request: Duration,
    /// Longest silence of an ingest stream that has no image under way, and longest time that an answer, of it or of any
    /// request, waits to be read.
    pub idle_stream: Duration,
    /// Calls to one shard node at once.
    pub calls_per_node: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            picture_bytes: DEFAULT_MAX_PICTURE_BYTES,
            sizes: SizeArgs::default(),
            ingest_window: 64,
            ingest_bytes: 64 << 20,
            arriving_bytes: 256 << 20,
            requests: 1024,
            requests_per_client: 512,
            rate_per_client: 10_000,
            request: Duration::from_secs(DEFAULT_DEADLINE_SECONDS + 5),
            idle_stream: Duration::from_secs(300),
            calls_per_node: 512,
        }
    }
}

/// How a coordinator runs.
#[derive(Debug, Clone)]
pub struct CoordinatorConfig {
    /// `host:port` of shard nodes to learn the cluster from.
    pub shard_nodes: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// TLS of the public port.
    pub public_tls: Option<PublicTls>,
    /// TLS towards shard nodes.
    pub peer_tls: Option<PeerTls>,
    /// What is allowed without TLS.
    pub plaintext: Plaintext,
    /// Who may do what.
    pub access: AccessConfig,
    /// Bounds of clients' connections.
    pub connections: ConnectionLimits,
    /// How often the cluster map is asked for.
    pub poll_interval: Duration,
    /// How long requests may go on once a shutdown has begun.
    pub drain: Duration,
    /// The way to the shard node in the same process, if there is one.
    pub in_process: Option<InProcess>,
    /// This coordinator's place on the admin port.
    pub vitals: Vitals,
}

impl CoordinatorConfig {
    /// With the default limits.
    pub fn new(shard_nodes: Vec<String>) -> Self {
        Self {
            shard_nodes: shard_nodes.into_iter().map(|s| s.trim().to_owned()).filter(|s| !s.is_empty()).collect(),
            limits: Limits::default(),
            public_tls: None,
            peer_tls: None,
            plaintext: Plaintext::Loopback,
            access: AccessConfig::default(),
            connections: ConnectionLimits::default(),
            poll_interval: Duration::from_secs(1),
            drain: Duration::from_secs(10),
            in_process: None,
            vitals: Vitals::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn flags_become_a_config() {
        let cli = Cli::parse_from(["x", "--shard-nodes", "a:1, b:2,", "--ingest-window", "0"]);
        let config = cli.args.config();
        assert_eq!(config.shard_nodes, ["a:1", "b:2"]);
        assert_eq!(config.limits.ingest_window, 1);
        assert_eq!(config.limits.picture_bytes, 16 << 20);
    }

    /// What bounds clients has a unit, is on unless told otherwise, and stands in the table of limits.
    #[test]
    fn every_limit_has_a_unit_a_default_and_a_row() {
        const SIZES: [&str; 6] = ["BYTES", "MIB", "SECONDS", "REQUESTS/S", "HITS", "PERCENT"];
        const COUNTS: [&str; 9] =
            ["REQUESTS", "CALLS", "CONNECTIONS", "HANDSHAKES", "IMAGES", "IDS", "QUERIES", "ATTRIBUTES", "COLLECTIONS"];
        let (table, mut limits) = (include_str!("../../SECURITY.md"), 0);
        for flag in <Cli as clap::CommandFactory>::command().get_arguments() {
            let long = flag.get_long().unwrap_or_default();
            if !["max-", "ingest-", "idle-", "handshake-"].iter().any(|start| long.starts_with(start)) {
                continue;
            }
            let unit = flag.get_value_names().map(|names| names[0].as_str()).unwrap_or_default();
            assert!(SIZES.contains(&unit) || COUNTS.contains(&unit), "--{long} has the unit {unit:?}");
            assert!(!flag.get_default_values().is_empty(), "--{long} is off");
            assert!(table.contains(&format!("`--{long}`")), "--{long} is not in SECURITY.md");
            limits += 1;
        }
        assert!(limits >= 20, "{limits}");
    }
}
