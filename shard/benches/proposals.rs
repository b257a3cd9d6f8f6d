//! Proposals of a group of one replica: the log's group commit, without network. Also says how many proposals shared an
//! fsync.

// Benches fail by panicking, as tests do.
#![allow(clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use omma_common::deadline::Deadline;
use omma_shard::group::state_machine::{Committed, SnapshotChunks, StateError, StateMachine};
use omma_shard::group::{AddressBook, GroupHost, RaftTimings, Replica, Role};
use omma_shard::room::Room;

/// Of a command with one image of 512 dimensions.
const COMMAND: usize = 2_100;
const PATIENCE: Duration = Duration::from_secs(30);

/// Applies nothing, so that only the log is measured.
struct Nothing;

impl StateMachine for Nothing {
    fn raft_state(&self) -> Result<Option<Bytes>, StateError> {
        Ok(None)
    }
    fn apply(&self, entries: Vec<Committed>, _raft: Bytes) -> Result<Vec<Bytes>, StateError> {
        Ok(entries.iter().map(|_| Bytes::new()).collect())
    }
    fn flush(&self) -> Result<(), StateError> {
        Ok(())
    }
    fn snapshot(&self) -> Result<(Bytes, SnapshotChunks), StateError> {
        Ok((Bytes::new(), Box::new(std::iter::empty())))
    }
    fn install(&self, _raft: Bytes, _chunks: SnapshotChunks) -> Result<(), StateError> {
        Ok(())
    }
}

async fn leader(host: &GroupHost, address: &str) -> Replica {
    let replica = host.start(1, Arc::new(Nothing)).await.expect("a replica");
    replica.initialise(&[(1, address.to_owned())]).await.expect("a group");
    while replica.status().role != Role::Leader {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    replica
}

fn proposals(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    // Nobody calls it: there is no other member.
    let (address, addresses) = ("127.0.0.1:9", AddressBook::default());
    let timings = RaftTimings::with_election_timeout(Duration::from_millis(500));
    let (host, replica) = runtime.block_on(async {
        let host = GroupHost::open(folder.path(), 1, timings, addresses, Default::default(), Room::unchecked())
            .expect("a host");
        let replica = leader(&host, address).await;
        (host, replica)
    });
    let mut group = c.benchmark_group("proposals");
    for writers in [1usize, 16, 128] {
        let before = host.log_counters();
        group.sample_size(10).throughput(Throughput::Elements(writers as u64));
        group.bench_with_input(BenchmarkId::from_parameter(writers), &writers, |b, &writers| {
            b.iter(|| runtime.block_on(propose(replica.clone(), writers)));
        });
        let after = host.log_counters();
        let (entries, flushes) = (after.entries - before.entries, after.fsyncs - before.fsyncs);
        println!("{writers} writers: {:.1} entries for each fsync", entries as f64 / flushes.max(1) as f64);
    }
    group.finish();
    runtime.block_on(host.shutdown());
}

async fn propose(replica: Replica, writers: usize) {
    let each = |i: usize| {
        let replica = replica.clone();
        tokio::spawn(async move {
            replica.propose(Bytes::from(vec![i as u8; COMMAND]), Deadline::after(PATIENCE)).await.expect("committed")
        })
    };
    futures::future::join_all((0..writers).map(each)).await;
}

criterion_group!(benches, proposals);
criterion_main!(benches);
