//! Commands are proposed, acknowledged and read; together they take few fsyncs, and too many are refused.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::deadline::Deadline;
use tokio::task::JoinSet;

use super::{Cluster, GROUP, soon};
use crate::group::{Barrier, GroupError, RaftTimings};

#[tokio::test(flavor = "multi_thread")]
async fn elects_proposes_and_reads() {
    let cluster = Cluster::formed(3, RaftTimings::default()).await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader).clone();
    let mut writers = JoinSet::new();
    for writer in 0..16 {
        let replica = replica.clone();
        writers.spawn(async move {
            for n in 0..20 {
                let command = format!("{writer}/{n}");
                let proposed = loop {
                    match replica.propose(command.clone().into(), soon()).await {
                        Ok(proposed) => break proposed,
                        // The machine may be too slow for the heartbeats; nothing was proposed then.
                        Err(GroupError::Unavailable { .. }) => {}
                        Err(other) => panic!("{other}"),
                    }
                };
                assert_eq!(proposed.outcome, format!("did {command}"));
            }
        });
    }
    writers.join_all().await;
    let large = Bytes::from(vec![1; 24 << 20]);
    replica.propose(large, soon()).await.unwrap();
    let read = replica.read_barrier(Barrier::Linearizable, soon()).await.unwrap();
    assert!(read >= 321);
    assert_eq!(cluster.nodes[&leader].state.commands().len(), 321);
    let all = cluster.converged().await;
    assert_eq!(all.into_iter().collect::<BTreeSet<_>>().len(), 321);

    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let follower = cluster.replica(follower);
    assert_eq!(follower.read_barrier(Barrier::AtLeast(read), soon()).await.unwrap(), read);
    let here = (leader, cluster.addresses.get(leader).unwrap());
    let refused = follower.propose(Bytes::from_static(b"x"), soon()).await.unwrap_err();
    assert!(matches!(&refused, GroupError::NotLeader { leader: Some(at), .. } if *at == here), "{refused:?}");
    let refused = follower.read_barrier(Barrier::Linearizable, soon()).await.unwrap_err();
    assert!(matches!(&refused, GroupError::NotLeader { leader: Some(at), .. } if *at == here), "{refused:?}");
    let late = follower.read_barrier(Barrier::AtLeast(read + 1), Deadline::after(Duration::from_millis(50))).await;
    assert!(matches!(late, Err(GroupError::DeadlineExceeded { .. })), "{late:?}");
    // No write can have this index: refused at once, on whatever replica.
    for replica in [&replica, follower] {
        let begun = Instant::now();
        let forged = replica.read_barrier(Barrier::AtLeast(1 << 63), soon()).await;
        assert!(
            matches!(forged, Err(GroupError::BeyondLog { index, newest, .. }) if index == 1 << 63 && newest >= read)
        );
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
    // Nor this one: the leader knows, and another has the caller ask it long before the caller gives up.
    let begun = Instant::now();
    let forged = replica.read_barrier(Barrier::AtLeast(read + 1), soon()).await;
    assert!(matches!(forged, Err(GroupError::BeyondLog { .. })), "{forged:?}");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let unheard = follower.read_barrier(Barrier::AtLeast(read + 1), soon()).await;
    assert!(matches!(unheard, Err(GroupError::Unavailable { .. })), "{unheard:?}");
    let took = begun.elapsed();
    assert!(took >= RaftTimings::default().election_max && took < Duration::from_secs(5), "{took:?}");
    // What is written meanwhile is heard of.
    let waiting = follower.clone();
    let waiting = tokio::spawn(async move { waiting.read_barrier(Barrier::AtLeast(read + 1), soon()).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    cluster.propose("after").await;
    assert_eq!(waiting.await.unwrap().unwrap(), read + 1);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proposals_are_bounded_also_when_their_callers_go() {
    let mut cluster = Cluster::formed(3, RaftTimings::default()).await;
    cluster.propose("first").await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.kill(id).await;
    }
    let replica = cluster.replica(leader).clone();
    // While the lease lasts, proposals are taken, but none can be committed.
    let gone = Deadline::after(Duration::from_millis(1));
    let attempts = (0..1100).map(|n: u32| replica.propose(Bytes::from(n.to_string()), gone));
    let outcomes = futures::future::join_all(attempts).await;
    let refused = outcomes.iter().filter(|o| matches!(o, Err(GroupError::Overloaded { .. }))).count();
    assert_eq!(refused, 76, "{:?}", outcomes.iter().find(|o| o.is_ok()));
    let large = replica.propose(Bytes::from(vec![0; 33 << 20]), soon()).await;
    assert!(matches!(large, Err(GroupError::TooLarge { .. })), "{large:?}");
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.start(id).await;
    }
    cluster.propose("after").await;
    cluster.converged().await;
    let begun = Instant::now();
    // Raft is done with all of them, so all places are free again.
    while replica.free_places() < 1024 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{} places are free", replica.free_places());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.end().await;
    let stopped = replica.propose(Bytes::from_static(b"x"), soon()).await;
    assert!(matches!(stopped, Err(GroupError::Stopped(GROUP))), "{stopped:?}");
}

/// Not a test of speed: prints what was seen.
#[tokio::test(flavor = "multi_thread")]
async fn proposals_share_fsyncs() {
    // Patient: on a busy machine 128 writers must not cost the leader its place.
    let cluster = Cluster::formed(3, RaftTimings::with_election_timeout(Duration::from_secs(5))).await;
    let leader = cluster.leader().await;
    let replica = cluster.replica(leader).clone();
    let command = Bytes::from(vec![7u8; 2500]);
    let mut alone = Vec::new();
    for _ in 0..100 {
        let begun = Instant::now();
        replica.propose(command.clone(), soon()).await.unwrap();
        alone.push(begun.elapsed());
    }
    alone.sort();
    let (before, begun) = (cluster.nodes[&leader].host.log_counters(), Instant::now());
    let mut writers = JoinSet::new();
    for _ in 0..128 {
        let (replica, command) = (replica.clone(), command.clone());
        writers.spawn(async move {
            for _ in 0..20 {
                replica.propose(command.clone(), soon()).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let (after, took) = (cluster.nodes[&leader].host.log_counters(), begun.elapsed());
    let (entries, fsyncs) = (after.entries - before.entries, after.fsyncs - before.fsyncs);
    println!(
        "alone: median {:?}; 128 writers: {:.0} proposals/s, {:.1} per fsync",
        alone[50],
        2560.0 / took.as_secs_f64(),
        entries as f64 / fsyncs as f64
    );
    // A majority of others may acknowledge before the leader has written: the counts may be off by a batch.
    assert!(entries > 2000 && fsyncs * 2 < entries, "{entries} entries took {fsyncs} fsyncs");
    cluster.end().await;
}
