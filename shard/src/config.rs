//! What a shard node can be told.

use std::path::PathBuf;
use std::time::Duration;

use omma_common::admin::Vitals;
use omma_common::serve::{ConnectionArgs, ConnectionLimits, InProcess};
use omma_common::tls::args::PeerTlsArgs;
use omma_common::tls::{PeerTls, Plaintext};

use crate::encoder::{Device, EncoderConfig, ModelSource};
use crate::group::RaftTimings;
use crate::images::{ImagesConfig, Recent};
use crate::index::{DEFAULT_EXPANSION_SEARCH, Storage};
use crate::memory::{LEAST_MIB, Shares};
use crate::room::Room;

/// Flags of a shard node.
#[derive(Debug, Clone, clap::Args)]
pub struct ShardArgs {
    /// Folder for all of this node's data. One node at a time may use it.
    #[arg(long = "data", env = "OMMA_DATA", value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// Address to listen on, for coordinators and peers.
    #[arg(long, env = "OMMA_LISTEN", default_value = "127.0.0.1:7701", value_name = "HOST:PORT")]
    pub listen: String,
    /// Address that coordinators and peers reach this node at; the listening address if left out.
    #[arg(long, env = "OMMA_ADVERTISE", value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// All shard nodes of the first boot, this one among them. They form the cluster when all of them are up; a node
    /// that comes later finds the cluster through any of them. Left out: a cluster of this node alone.
    #[arg(long, env = "OMMA_PEERS", value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub peers: Vec<String>,
    /// Shard groups of a new cluster.
    #[arg(long, env = "OMMA_GROUPS", default_value_t = 3)]
    pub groups: u32,
    /// Replicas of each shard group of a new cluster.
    #[arg(long, env = "OMMA_REPLICATION", default_value_t = 3)]
    pub replication: u32,
    /// Failure zone of this node; replicas of a group are spread over zones.
    #[arg(long, env = "OMMA_ZONE", default_value = "")]
    pub zone: String,
    /// Milliseconds of silence after which a leader is given up, at most. Writes resume within twice that time. Longer
    /// for slow networks; give all nodes the same.
    #[arg(long, env = "OMMA_ELECTION_TIMEOUT", default_value_t = 1_000, value_name = "MILLISECONDS",
          value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub election_timeout: u64,
    /// Seconds after which a node that is not heard from is replaced, if there is another that can take its replicas;
    /// 0 for never. Give all nodes the same.
    #[arg(long, env = "OMMA_REPLACE_AFTER", default_value_t = 600, value_name = "SECONDS")]
    pub replace_after: u64,
    /// Log entries after which a replica's state is flushed and its log may be cut.
    #[arg(long, default_value_t = 5_000, value_name = "ENTRIES")]
    pub snapshot_every: u64,
    /// Log entries that stay for replicas that lag; one that lags more gets a snapshot.
    #[arg(long, default_value_t = 5_000, value_name = "ENTRIES")]
    pub keep_logs: u64,
    /// Numbers in the HNSW graphs of collections that do not say it themselves: f32, f16, bf16 or i8; i8 if it is left out,
    /// and f16 for embeddings of fewer than 128 numbers. Hits are always ranked by f32. Graphs that were kept in another
    /// precision are built anew.
    #[arg(long)]
    pub graph_storage: Option<Storage>,
    /// Candidates that a search of an HNSW graph keeps (its ef): more find more, and take longer. A query for more hits
    /// keeps as many as those.
    #[arg(long, default_value_t = DEFAULT_EXPANSION_SEARCH as u32, value_name = "CANDIDATES",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub graph_candidates: u32,
    /// Images per collection and group that may wait for the graph before writes are refused.
    #[arg(long, default_value_t = 100_000, value_name = "IMAGES")]
    pub max_tail: usize,
    /// Memory that this process may use, in MiB; 512 at least. The stores' caches, the memory for decoding and for
    /// pictures that wait, and the largest picture follow from it, unless they are given themselves. Graphs and tails
    /// grow with what is stored: leave room for them.
    #[arg(long, env = "OMMA_MEMORY_LIMIT_MIB", value_name = "MIB", value_parser = clap::value_parser!(u64).range(LEAST_MIB..))]
    pub memory_limit_mib: Option<u64>,
    /// Memory for the cache of each of the two stores, and for the embeddings that searches read, in MiB; 512 if neither
    /// this nor --memory-limit-mib is given.
    #[arg(long, value_name = "MIB")]
    pub cache_mib: Option<usize>,
    /// MiB of the data folder's disk that are to stay free: with less, new images are refused, with half of it, no
    /// checkpoints are written, with a quarter, the node takes nothing more and waits; 0 for no checks.
    #[arg(long, env = "OMMA_MIN_FREE_DISK", default_value_t = 512, value_name = "MIB")]
    pub min_free_disk: u64,
    /// TLS between nodes.
    #[command(flatten)]
    pub peer_tls: PeerTlsArgs,
    /// Bounds of the connections to this node.
    #[command(flatten)]
    pub connections: ConnectionArgs,
    /// Share of the queries that are answered once more, exactly, to measure recall; 0 for none. It takes a twentieth
    /// of one core at most.
    #[arg(long, env = "OMMA_RECALL_SAMPLE", default_value_t = 0.001, value_name = "SHARE")]
    pub recall_sample: f64,
    /// How pictures are encoded.
    #[command(flatten)]
    pub encoder: EncoderArgs,
}

/// Flags of the encoder.
#[derive(Debug, Clone, clap::Args)]
pub struct EncoderArgs {
    /// Folder of a model in Hugging Face's ONNX layout; the built-in EfficientNet-Lite0 if left out.
    #[arg(long, env = "OMMA_MODEL", value_name = "FOLDER")]
    pub model: Option<PathBuf>,
    /// Where to run the model: auto, cpu, or cuda:N.
    #[arg(long, env = "OMMA_DEVICE", default_value = "auto")]
    pub device: Device,
    /// The ONNX Runtime library, libonnxruntime.so; looked for in the usual places if left out.
    #[arg(long, env = "OMMA_ONNXRUNTIME", value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// Largest picture, in bytes.
    #[arg(long, default_value_t = omma_common::limits::DEFAULT_MAX_PICTURE_BYTES, value_name = "BYTES")]
    pub max_picture_bytes: usize,
    /// Largest picture, in pixels; 64,000,000 if left out, or what --memory-limit-mib has room for.
    #[arg(long, value_name = "PIXELS")]
    pub max_picture_pixels: Option<u64>,
    /// Pictures of one client that are decoded at once, or on a CPU in the model; as many as cores if left out. There is
    /// one thread more.
    #[arg(long, value_name = "THREADS")]
    pub decode_threads: Option<usize>,
    /// Memory that decoding may use in all, in MiB; pictures that need more wait. 1024 if left out, or half of
    /// --memory-limit-mib.
    #[arg(long, value_name = "MIB")]
    pub max_decode_memory_mib: Option<u64>,
    /// A picture that takes longer to decode is given up, in seconds.
    #[arg(long, default_value_t = EncoderConfig::default().decode_patience.as_secs(), value_name = "SECONDS")]
    pub max_decode_seconds: u64,
    /// Pictures that may wait for the encoder at once.
    #[arg(long, default_value_t = EncoderConfig::default().queue, value_name = "PICTURES")]
    pub max_encoder_queue: usize,
    /// A query's picture that would wait longer for the encoder is refused at once, in milliseconds. While its client's
    /// queries have waited for so long without a pause, a fifth of it counts.
    #[arg(long, default_value_t = EncoderConfig::default().urgent_wait.as_millis() as u64, value_name = "MILLISECONDS")]
    pub max_encoder_wait_millis: u64,
    /// Sessions of the model that run at once; chosen by the device if left out.
    #[arg(long, value_name = "SESSIONS")]
    pub encoder_workers: Option<usize>,
    /// Most pictures of one inference; chosen by the device if left out.
    #[arg(long, value_name = "PICTURES")]
    pub max_batch: Option<usize>,
}

impl EncoderArgs {
    fn config(&self, memory: Option<Shares>) -> EncoderConfig {
        let default = EncoderConfig::default();
        let pixels = memory.map_or(default.max_picture_pixels, |m| m.pixels().min(default.max_picture_pixels));
        let decode_memory = memory.map_or(default.decode_memory, |m| m.decode);
        EncoderConfig {
            model: self.model.clone().map_or(ModelSource::BuiltIn, ModelSource::Directory),
            device: self.device,
            runtime_library: self.onnxruntime.clone(),
            max_picture_bytes: self.max_picture_bytes,
            max_picture_pixels: self.max_picture_pixels.unwrap_or(pixels),
            decode_memory: self.max_decode_memory_mib.map_or(decode_memory, |mib| mib << 20),
            waiting_bytes: memory.map_or(default.waiting_bytes, |m| m.waiting),
            decode_patience: Duration::from_secs(self.max_decode_seconds.max(1)),
            queue: self.max_encoder_queue,
            urgent_wait: Duration::from_millis(self.max_encoder_wait_millis),
            decode_threads: self.decode_threads.unwrap_or(default.decode_threads),
            workers: self.encoder_workers.unwrap_or(default.workers),
            max_batch: self.max_batch.unwrap_or(default.max_batch),
        }
    }
}

/// A shard node's configuration.
#[derive(Debug, Clone)]
pub struct ShardConfig {
    /// All data is here.
    pub data_dir: PathBuf,
    /// host:port that others reach this node at.
    pub advertise: String,
    /// Nodes of the first boot.
    pub peers: Vec<String>,
    /// Shard groups of a new cluster.
    pub groups: u32,
    /// Replicas per group of a new cluster.
    pub replication: u32,
    /// Failure zone.
    pub zone: String,
    /// A node that is silent for so long is replaced; `None`: never.
    pub replace_after: Option<Duration>,
    /// TLS of the port, and towards other shard nodes.
    pub peer_tls: Option<PeerTls>,
    /// What is allowed without TLS.
    pub plaintext: Plaintext,
    /// Bounds of the connections to the port.
    pub connections: ConnectionLimits,
    /// Elections, heartbeats, snapshots.
    pub raft: RaftTimings,
    /// Indexes.
    pub images: ImagesConfig,
    /// Writes are refused above this tail.
    pub max_tail: usize,
    /// What is left of the disk.
    pub room: Room,
    /// Of each of the two stores; as much is for the embeddings that searches read.
    pub cache_bytes: usize,
    /// Pictures.
    pub encoder: EncoderConfig,
    /// Requests that may wait for a searching thread; more are refused.
    pub search_queue: usize,
    /// Share of the queries whose recall is measured.
    pub recall_sample: f64,
    /// The way in for a coordinator in the same process.
    pub in_process: Option<InProcess>,
    /// This node's place on the admin port.
    pub vitals: Vitals,
}

/// Bytes of a cache where nothing was said.
const DEFAULT_CACHE: usize = 512 << 20;

/// How often stores write what nobody waits for.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_secs(2);

impl ShardArgs {
    /// The configuration these flags ask for.
    pub fn config(&self) -> ShardConfig {
        let advertise = self.advertise.clone().unwrap_or_else(|| self.listen.clone());
        let peers = if self.peers.is_empty() { vec![advertise.clone()] } else { self.peers.clone() };
        let raft = RaftTimings::with_election_timeout(Duration::from_millis(self.election_timeout));
        let memory = self.memory_limit_mib.map(Shares::of);
        let raft = RaftTimings { snapshot_every: self.snapshot_every, keep_logs: self.keep_logs, ..raft };
        let room = Room::new(&self.data_dir, self.min_free_disk << 20);
        let cache_bytes = self.cache_mib.map_or(memory.map_or(DEFAULT_CACHE, |m| m.cache), |mib| mib << 20);
        ShardConfig {
            room: room.clone(),
            data_dir: self.data_dir.clone(),
            advertise,
            peers,
            groups: self.groups,
            replication: self.replication,
            zone: self.zone.clone(),
            replace_after: (self.replace_after > 0).then(|| Duration::from_secs(self.replace_after)),
            peer_tls: self.peer_tls.files(),
            plaintext: self.peer_tls.plaintext(),
            connections: self.connections.limits(),
            raft,
            images: ImagesConfig {
                storage: self.graph_storage,
                index_threads: cores() + 1,
                expansion_search: self.graph_candidates as usize,
                room,
                recent: Recent::new(cache_bytes),
            },
            max_tail: self.max_tail,
            cache_bytes,
            encoder: self.encoder.config(memory),
            search_queue: 1024,
            recall_sample: self.recall_sample,
            in_process: None,
            vitals: Vitals::default(),
        }
    }
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: ShardArgs,
    }

    fn config(flags: &[&str]) -> ShardConfig {
        Cli::parse_from([&["x", "--data", "d"], flags].concat()).args.config()
    }

    #[test]
    fn bounds_follow_from_the_memory_unless_they_are_given() {
        let (usual, small) = (config(&[]), config(&["--memory-limit-mib", "1024"]));
        assert_eq!((usual.cache_bytes, usual.encoder.decode_memory), (512 << 20, 1 << 30));
        assert_eq!(usual.encoder.max_picture_pixels, 64_000_000);
        assert_eq!((small.cache_bytes, small.encoder.decode_memory), ((1 << 30) / 24, 512 << 20));
        assert!(small.encoder.max_picture_pixels < 64_000_000 && small.encoder.waiting_bytes == 128 << 20);
        let given = ["--memory-limit-mib", "1024", "--cache-mib", "5", "--max-decode-memory-mib", "7"];
        let given = config(&given);
        assert_eq!((given.cache_bytes, given.encoder.decode_memory), (5 << 20, 7 << 20));
        assert!(Cli::try_parse_from(["x", "--data", "d", "--memory-limit-mib", "511"]).is_err());
    }

    /// What bounds strangers has a unit, is on unless told otherwise, and stands in the table of limits.
    #[test]
    fn every_limit_has_a_unit_a_default_and_a_row() {
        const UNITS: [&str; 10] = [
            "BYTES",
            "MIB",
            "PIXELS",
            "SECONDS",
            "MILLISECONDS",
            "PICTURES",
            "IMAGES",
            "CONNECTIONS",
            "HANDSHAKES",
            "PERCENT",
        ];
        let (table, mut limits) = (include_str!("../../SECURITY.md"), 0);
        for flag in <Cli as clap::CommandFactory>::command().get_arguments() {
            let long = flag.get_long().unwrap_or_default();
            // Pictures of one inference: nothing is refused over it.
            let bounds = ["max-", "idle-", "handshake-", "memory-", "min-free-"].iter().any(|s| long.starts_with(s));
            if !bounds || long == "max-batch" {
                continue;
            }
            let unit = flag.get_value_names().map(|names| names[0].as_str()).unwrap_or_default();
            assert!(UNITS.contains(&unit), "--{long} has the unit {unit:?}");
            // One that is left out follows from others, but for the process's own: that one is the machine's.
            let help = flag.get_help().map(ToString::to_string).unwrap_or_default();
            let on = !flag.get_default_values().is_empty() || help.contains("left out") || long == "memory-limit-mib";
            assert!(on, "--{long} is off");
            assert!(table.contains(&format!("`--{long}`")), "--{long} is not in SECURITY.md");
            limits += 1;
        }
        assert!(limits >= 10, "{limits}");
    }
}
