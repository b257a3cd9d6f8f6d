//! One shard node: its parts, and how it finds and follows its cluster.

mod anew;
mod applied;
mod bootstrap;
mod cleanup;
mod compare;
mod describe;
mod disk;
mod elsewhere;
mod held;
mod identity;
mod observe;
pub(crate) mod peers;
mod placement;
mod recall;
mod reconcile;
mod repair;
pub(crate) mod slots;
mod vitals;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use omma_common::admin::Subject;
use omma_common::fair::Turns;
use omma_common::ids::{GroupId, METADATA_GROUP, NodeId};
use omma_common::shutdown::Shutdown;
use omma_common::tls::Dialer;
use parking_lot::{Mutex, RwLock};

use compare::Comparisons;
use held::Held;
use identity::Identity;
pub use identity::IdentityError;
use recall::RecallSampler;

use crate::config::{FLUSH_EVERY, ShardConfig, cores};
use crate::encoder::{Encoder, EncoderError};
use crate::group::state_machine::StateError;
use crate::group::{AddressBook, GroupError, GroupHost, Replica};
use crate::images::ImageState;
use crate::metadata::MetadataMachine;
use crate::store::{Store, StoreError};

/// A node cannot start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Its data folder.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// Its store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its groups.
    #[error("cannot start a replica: {0}")]
    Group(#[from] GroupError),
    /// A thread of its own.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
    /// Its encoder.
    #[error("cannot start the encoder: {0}")]
    Encoder(#[from] EncoderError),
    /// What is stored is damaged. The next start decides what becomes of it.
    #[error(
        "the data in {folder} are damaged ({reason}): start the node again; it joins as a new one if its peers have a copy of everything"
    )]
    Damaged {
        /// The data folder.
        folder: PathBuf,
        /// What, where.
        reason: String,
    },
    /// What is stored is damaged, and may be the only copy.
    #[error(
        "the data in {folder} are damaged ({reason}), and the cluster may not have everything without them ({why}). Bring \
         the other nodes up and start this one again. If there are no others, restore a backup into a new cluster \
         (omma restore). To give up what only this node has, move the folder away (mv {folder} {folder}.damaged) and start \
         the node: it joins as a new one. To go on with what can be read, remove {folder}/damaged.json and start it"
    )]
    OnlyCopy {
        /// The data folder.
        folder: PathBuf,
        /// What, where.
        reason: String,
        /// Why the cluster may need it.
        why: String,
    },
    /// A replica's log or state could not be written or read any more. What was acknowledged is on disk.
    #[error("a replica has failed ({0}): see to the disk, then start the node again")]
    Failed(GroupError),
}

impl NodeError {
    /// What is damaged, if that is why.
    fn damage(&self) -> Option<String> {
        let damaged = matches!(
            self,
            Self::Store(StoreError::Damaged { .. })
                | Self::State(StateError::Damaged { .. } | StateError::Store(StoreError::Damaged { .. }))
                | Self::Group(GroupError::Damaged(_) | GroupError::Store(StoreError::Damaged { .. }))
        );
        damaged.then(|| self.to_string())
    }
}

/// How often it is looked whether all replicas run.
const LOOK_FOR_FAILURES: Duration = Duration::from_millis(500);

/// How often a node that waits for room looks again.
const LOOK_FOR_ROOM: Duration = Duration::from_secs(2);

/// A replica of a shard group: consensus and state.
#[derive(Clone)]
pub(crate) struct Shard {
    pub(crate) replica: Replica,
    pub(crate) state: ImageState,
}

/// The parts of a node; `api` serves them.
pub(crate) struct Node {
    pub(crate) config: ShardConfig,
    pub(crate) node_id: NodeId,
    pub(crate) started: Instant,
    pub(crate) encoder: Encoder,
    pub(crate) host: Arc<GroupHost>,
    pub(crate) metadata: MetadataMachine,
    pub(crate) metadata_replica: Replica,
    pub(crate) addresses: AddressBook,
    /// To other nodes.
    pub(crate) dialer: Dialer,
    /// Reads that run at once: more would only take turns on the cores.
    pub(crate) reads: Arc<Turns>,
    pub(crate) recall: RecallSampler,
    comparisons: Mutex<Comparisons>,
    /// Nodes that said last that their disks are nearly full.
    without_room: Mutex<BTreeMap<NodeId, bool>>,
    store: Store,
    held: Arc<Held>,
    shards: RwLock<HashMap<GroupId, Shard>>,
    _identity: Identity,
}

impl Node {
    /// Opens everything that is on disk, and the metadata replica. Shard groups follow from the metadata.
    pub(crate) async fn open(config: ShardConfig, dialer: Dialer) -> Result<Arc<Self>, NodeError> {
        let addresses = AddressBook::default();
        let (config, mut identity, encoder) = blocking(move || {
            config.vitals.step("taking the data folder");
            let identity = Identity::open(&config.data_dir)?;
            config.vitals.step("loading the encoder's model");
            let encoder = Encoder::start(config.encoder.clone())?;
            Ok::<_, NodeError>((config, identity, encoder))
        })
        .await?;
        wait_for_room(&config).await;
        if let Some(reason) = anew::noted(&config.data_dir) {
            identity = anew::begin(&config, &dialer, identity, reason).await?;
        }
        let open = |config: &ShardConfig, id| {
            let (config, addresses, dialer) = (config.clone(), addresses.clone(), dialer.clone());
            blocking(move || Stores::open(&config, id, addresses, dialer))
        };
        let opened = match open(&config, identity.node_id).await {
            Err(error) => match error.damage() {
                Some(reason) => {
                    identity = anew::begin(&config, &dialer, identity, reason).await?;
                    open(&config, identity.node_id).await?
                }
                None => return Err(error),
            },
            Ok(opened) => opened,
        };
        let Stores { host, store, held, metadata } = opened;
        addresses.set(identity.node_id, config.advertise.clone());
        // The first that reads the logs: damage that opening the store did not meet is met here.
        let metadata_replica = match host.start(METADATA_GROUP, Arc::new(metadata.clone())).await {
            Ok(replica) => replica,
            Err(error) => return Err(repair::not_started(&config.data_dir, &store, &host, error).await),
        };
        Ok(Arc::new(Self {
            node_id: identity.node_id,
            started: Instant::now(),
            encoder,
            host,
            metadata,
            metadata_replica,
            addresses,
            dialer,
            reads: Turns::new(cores() * 2, config.search_queue),
            recall: RecallSampler::start(config.recall_sample).map_err(NodeError::Thread)?,
            comparisons: Mutex::default(),
            without_room: Mutex::default(),
            store,
            held,
            shards: RwLock::default(),
            _identity: identity,
            config,
        }))
    }

    /// This node's replica of a shard group.
    pub(crate) fn shard(&self, group: GroupId) -> Option<Shard> {
        self.shards.read().get(&group).cloned()
    }

    /// All of this node's replicas of shard groups.
    pub(crate) fn shards(&self) -> Vec<Shard> {
        let mut all: Vec<Shard> = self.shards.read().values().cloned().collect();
        all.sort_by_key(|s| s.replica.group());
        all
    }

    /// Opens this node's replica of a shard group, if it is not open yet.
    async fn start_shard(&self, group: GroupId) -> Result<Shard, NodeError> {
        if let Some(shard) = self.shard(group) {
            return Ok(shard);
        }
        self.hold(group).await?;
        let (store, config) = (self.store.clone(), self.config.images.clone());
        let state = blocking(move || ImageState::open(store, group, &config)).await?;
        let replica = self.host.start(group, Arc::new(state.clone())).await?;
        let shard = Shard { replica, state };
        self.shards.write().insert(group, shard.clone());
        Ok(shard)
    }

    /// Finds or forms the cluster, then follows its metadata, until the shutdown.
    pub(crate) async fn live(self: Arc<Self>, shutdown: Shutdown) {
        tokio::select! {
            () = shutdown.begun() => {}
            () = async {
                bootstrap::find_cluster(&self).await;
                tokio::join!(
                    bootstrap::stay_known(&self),
                    reconcile::follow(&self),
                    cleanup::finish_deletions(&self),
                    compare::compare_replicas(&self),
                    placement::drive(&self),
                    slots::drive(&self),
                );
            } => {}
        }
    }

    /// Returns when a replica has failed. Only a new process can open its stores again, and until then the node would
    /// look like a member of groups that it takes no part in.
    pub(crate) async fn failed(&self) -> NodeError {
        loop {
            if let Some(error) = self.broken().await {
                return error;
            }
            tokio::time::sleep(LOOK_FOR_FAILURES).await;
        }
    }

    /// Gives every leadership to another replica, where there is one.
    pub(crate) async fn hand_over(&self) {
        let shards = self.shards();
        let replicas = shards.iter().map(|s| &s.replica).chain(std::iter::once(&self.metadata_replica));
        futures::future::join_all(replicas.map(|r| r.hand_over())).await;
    }

    /// Closes everything in order.
    pub(crate) async fn close(self: &Arc<Self>) {
        self.host.shutdown().await;
        let shards = std::mem::take(&mut *self.shards.write());
        let (store, node) = (self.store.clone(), self.clone());
        let closed = blocking(move || {
            node.recall.stop();
            // Joins the maintenance threads.
            drop(shards);
            store.flush()
        });
        if let Err(error) = closed.await {
            tracing::error!(%error, "the last flush failed; the log holds what it would have written");
        }
    }
}

/// What is opened on a blocking thread.
struct Stores {
    host: Arc<GroupHost>,
    store: Store,
    held: Arc<Held>,
    metadata: MetadataMachine,
}

impl Stores {
    fn open(config: &ShardConfig, id: NodeId, addresses: AddressBook, dialer: Dialer) -> Result<Self, NodeError> {
        let step = |what: &str| config.vitals.step(what);
        step("opening the store of the state");
        let store = Store::open(&config.data_dir.join("state"), config.cache_bytes, FLUSH_EVERY)?;
        let metadata = MetadataMachine::open(store.clone())?;
        let held = Arc::new(Held::open(&store)?);
        step("opening the Raft log");
        let room = config.room.clone();
        let host = GroupHost::open(&config.data_dir, id, config.raft.clone(), addresses, dialer, room)?;
        Ok(Self { host, store, held, metadata })
    }
}

/// On a full disk not even opening a store works.
async fn wait_for_room(config: &ShardConfig) {
    let waits: Arc<dyn Subject> = Arc::new(vitals::WaitsForRoom(config.room.clone()));
    while let Err(why) = config.room.for_log() {
        config.vitals.show(&waits);
        tracing::error!(%why, "the node starts when there is room on the disk");
        tokio::time::sleep(LOOK_FOR_ROOM).await;
    }
}

/// Runs `work` where it may block. A panic there goes on here.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Blocking work is cancelled only when the runtime is gone, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}
