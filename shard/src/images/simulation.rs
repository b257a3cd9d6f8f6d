//! Three replicas of one log, in steps that a seed draws: chunks of entries, crashes, restarts, snapshots that are read
//! and installed while their donor goes on, retries. Whatever the order, each request has one effect and one answer, and
//! all replicas end equal to each other and to a plain map.
//!
//! `OMMA_SEED` runs one seed again, `OMMA_SIMULATIONS` says how many are run.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use omma_proto::internal::v1::image_command::Command;
use omma_proto::internal::v1::{DeleteRecords, PutRecord, PutRecords};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::command::encode;
use super::{ImageState, ImagesConfig};
use crate::group::state_machine::{Committed, SnapshotChunks, StateMachine};
use crate::index::Storage;
use crate::store::Store;

pub(super) const UID: u64 = 7;
pub(super) const DIMENSION: usize = 8;
const IDS: u32 = 24;
const ENTRIES: usize = 150;
/// Nothing is flushed but by a step.
const NEVER: Duration = Duration::from_secs(3600);

/// The log, and what every replica must come to.
struct Log {
    commands: Vec<Bytes>,
    model: BTreeMap<String, Vec<f32>>,
}

pub(super) fn vector(rng: &mut StdRng) -> Vec<f32> {
    let mut v: Vec<f32> = (0..DIMENSION).map(|_| rng.random_range(-1.0..1.0)).collect();
    omma_common::vector::normalise(&mut v, DIMENSION).unwrap();
    v
}

impl Log {
    /// Puts and deletes of a few images; one entry in five is an earlier request once more, which has no effect.
    fn draw(rng: &mut StdRng) -> Self {
        let mut log = Self { commands: Vec::new(), model: BTreeMap::new() };
        for request in 0..ENTRIES {
            if request > 0 && rng.random_bool(0.2) {
                let again = log.commands[rng.random_range(0..log.commands.len())].clone();
                log.commands.push(again);
                continue;
            }
            let mut ids: Vec<String> =
                (0..rng.random_range(1..4)).map(|_| format!("i{}", rng.random_range(0..IDS))).collect();
            ids.dedup();
            let command = match rng.random_bool(0.3) {
                true => {
                    ids.iter().for_each(|id| drop(log.model.remove(id)));
                    Command::Delete(DeleteRecords { ids })
                }
                false => {
                    let items: Vec<_> = ids.into_iter().map(|id| (id, vector(rng))).collect();
                    log.model.extend(items.iter().cloned());
                    let record = |(id, v): (String, Vec<f32>)| PutRecord {
                        id,
                        embedding: omma_common::vector::to_bytes(&v),
                        ..PutRecord::default()
                    };
                    let records = items.into_iter().map(record).collect();
                    Command::Put(PutRecords { dimension: DIMENSION as u32, records, ..PutRecords::default() })
                }
            };
            log.commands.push(encode(&format!("r{request}"), UID, command));
        }
        log
    }

    fn entries(&self, after: u64, most: usize) -> Vec<Committed> {
        let commands = self.commands.iter().skip(after as usize).take(most);
        (after + 1..)
            .zip(commands)
            .map(|(index, command)| Committed { index, command: Some(command.clone()) })
            .collect()
    }
}

pub(super) struct Replica {
    folder: PathBuf,
    pub(super) state: ImageState,
}

impl Replica {
    pub(super) fn open(folder: PathBuf) -> Self {
        let store = Store::open(&folder, 16 << 20, NEVER).unwrap();
        let config = ImagesConfig { storage: Some(Storage::F16), index_threads: 1, ..ImagesConfig::default() };
        Self { state: ImageState::open(store, 1, &config).unwrap(), folder }
    }

    pub(super) fn applied(&self) -> u64 {
        self.state.stats().applied
    }

    /// What is on disk at this moment is all that is left: as after kill -9.
    pub(super) fn crash(self, into: PathBuf) -> Self {
        copy(&self.folder, &into);
        drop(self);
        Self::open(into)
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (path, into) = (entry.path(), to.join(entry.file_name()));
        match path.is_dir() {
            true => copy(&path, &into),
            false => drop(std::fs::copy(path, into).unwrap()),
        }
    }
}

/// A snapshot on its way: read piece by piece.
struct Transfer {
    to: usize,
    raft: Bytes,
    at: u64,
    chunks: SnapshotChunks,
    read: Vec<Bytes>,
}

struct World {
    rng: StdRng,
    log: Log,
    replicas: Vec<Option<Replica>>,
    transfer: Option<Transfer>,
    /// What the first replica that applied an entry answered.
    answers: HashMap<u64, Bytes>,
    folder: tempfile::TempDir,
    folders: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let log = Log::draw(&mut rng);
        let folder = tempfile::tempdir().unwrap();
        let replicas = (0..3).map(|i| Some(Replica::open(folder.path().join(format!("first-{i}"))))).collect();
        Self { rng, log, replicas, transfer: None, answers: HashMap::new(), folder, folders: 0 }
    }

    fn replica(&self, i: usize) -> &Replica {
        self.replicas[i].as_ref().unwrap()
    }

    fn apply(&mut self, i: usize, most: usize) {
        let state = self.replica(i).state.clone();
        let entries = self.log.entries(self.replica(i).applied(), most);
        let Some(last) = entries.last().map(|e| e.index) else { return };
        let first = entries[0].index;
        let outcomes = state.apply(entries, Bytes::from(last.to_be_bytes().to_vec())).unwrap();
        for (index, outcome) in (first..).zip(outcomes) {
            let known = self.answers.entry(index).or_insert_with(|| outcome.clone());
            assert_eq!(*known, outcome, "replica {i} answers entry {index} in another way than the first did");
        }
    }

    fn crash(&mut self, i: usize) {
        // A snapshot that is read from it, or sent to it, is lost.
        self.transfer = None;
        self.folders += 1;
        let into = self.folder.path().join(format!("crash-{}", self.folders));
        let crashed = self.replicas[i].take().unwrap().crash(into);
        self.replicas[i] = Some(crashed);
    }

    fn begin_transfer(&mut self) {
        let from = self.rng.random_range(0..3);
        let to = (from + self.rng.random_range(1..3)) % 3;
        let at = self.replica(from).applied();
        if at <= self.replica(to).applied() {
            return;
        }
        let (raft, chunks) = self.replica(from).state.snapshot().unwrap();
        self.transfer = Some(Transfer { to, raft, at, chunks, read: Vec::new() });
    }

    /// Reads another piece; installs the snapshot when that was the last one, unless the log was faster.
    fn go_on_with_transfer(&mut self) {
        let Some(mut transfer) = self.transfer.take() else { return self.begin_transfer() };
        if let Some(chunk) = transfer.chunks.next() {
            transfer.read.push(chunk.unwrap());
            self.transfer = Some(transfer);
            return;
        }
        if transfer.at > self.replica(transfer.to).applied() {
            let chunks = transfer.read.into_iter().map(Ok);
            self.replica(transfer.to).state.install(transfer.raft, Box::new(chunks)).unwrap();
            assert_eq!(self.replica(transfer.to).applied(), transfer.at);
        }
    }

    fn step(&mut self) {
        let i = self.rng.random_range(0..3);
        match self.rng.random_range(0..20) {
            0..9 => {
                let most = self.rng.random_range(1..8);
                self.apply(i, most);
            }
            9 => self.replica(i).state.flush().unwrap(),
            10 => self.crash(i),
            _ => self.go_on_with_transfer(),
        }
    }

    fn finish(mut self) {
        for i in 0..3 {
            self.apply(i, usize::MAX);
        }
        // Every request once more, to each replica: answered as at first, and without effect.
        let again = self.log.commands.clone();
        self.log.commands.extend(again);
        for index in 1..=ENTRIES as u64 {
            self.answers.insert(index + ENTRIES as u64, self.answers[&index].clone());
        }
        let digest = self.replica(0).state.stats().digest;
        assert!(!digest.is_empty());
        let ids: Vec<String> = (0..IDS).map(|i| format!("i{i}")).collect();
        for i in 0..3 {
            self.apply(i, usize::MAX);
            let state = &self.replica(i).state;
            let stats = state.stats();
            assert_eq!((stats.images, &stats.digest), (self.log.model.len() as u64, &digest), "replica {i}");
            let found = ids.iter().filter_map(|id| state.get(UID, id, true).unwrap());
            let found: BTreeMap<_, _> = found.map(|m| (m.id, m.embedding.unwrap().values)).collect();
            assert_eq!(found, self.log.model, "replica {i}");
            let hits = state.search(UID, &[1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], 2 * IDS as usize, false).unwrap();
            assert_eq!(hits.len(), self.log.model.len(), "replica {i} finds images twice, or not at all: {hits:?}");
        }
    }
}

fn simulate(seed: u64) {
    let mut world = World::new(seed);
    for _ in 0..200 {
        world.step();
    }
    world.finish();
}

#[test]
fn replicas_end_equal_whatever_happens_to_them() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let seeds = match number("OMMA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("OMMA_SIMULATIONS").unwrap_or(8),
    };
    for seed in seeds {
        println!("OMMA_SEED={seed}");
        simulate(seed);
    }
}
