//! Leaders die, lack a majority, hand over; who may elect the next.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::deadline::Deadline;
use omma_proto::internal::v1 as proto;

use super::{Cluster, GROUP, soon};
use crate::group::{Barrier, GroupError, MemberChange, RaftTimings, Role};

#[tokio::test(flavor = "multi_thread")]
async fn survives_its_leader_and_takes_it_back() {
    let mut cluster = Cluster::formed(3, RaftTimings::default()).await;
    let mut acknowledged = BTreeSet::new();
    for round in 0..3 {
        for n in 0..20 {
            let command = format!("{round}/{n}");
            cluster.propose(&command).await;
            acknowledged.insert(Bytes::from(command));
        }
        let leader = cluster.leader().await;
        cluster.kill(leader).await;
        let begun = Instant::now();
        let command = format!("{round}/after");
        cluster.propose(&command).await;
        acknowledged.insert(Bytes::from(command));
        println!("writes resumed {:?} after the leader was gone", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(10), "writes resumed after {:?}", begun.elapsed());
        assert_ne!(cluster.leader().await, leader);
        cluster.start(leader).await;
        let all: BTreeSet<_> = cluster.converged().await.into_iter().collect();
        assert!(all.is_superset(&acknowledged), "lost: {:?}", acknowledged.difference(&all));
    }
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_replica_lets_the_lease_pass_before_it_votes() {
    let lease = Duration::from_secs(3);
    let mut cluster = Cluster::formed(3, RaftTimings { election_max: lease, ..RaftTimings::default() }).await;
    let leader = cluster.leader().await;
    let mut others = (1..=3).filter(|id| *id != leader);
    let (back, candidate) = (others.next().unwrap(), others.next().unwrap());
    // One that would be voted for by anybody who may.
    let ask = |pre_vote, leader_transfer| proto::VoteRequest {
        group_id: GROUP,
        vote: Some(proto::RaftVote { term: 99, node_id: candidate, committed: false }),
        last_log_id: Some(proto::RaftLogId { term: 98, node_id: candidate, index: 1_000 }),
        leader_transfer,
        pre_vote,
        to: back,
    };
    cluster.kill(back).await;
    let begun = Instant::now();
    cluster.start(back).await;
    let host = cluster.nodes[&back].host.clone();
    for pre_vote in [true, false] {
        let refused = host.handle_vote(ask(pre_vote, false)).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    }
    // The leader that it answered before is gone, so that nothing but the time lets it stand or vote.
    cluster.kill(leader).await;
    cluster.kill(candidate).await;
    while begun.elapsed() < lease - Duration::from_millis(200) {
        assert_ne!(cluster.nodes[&back].replica.status().role, Role::Candidate, "after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep((lease + Duration::from_millis(200)).saturating_sub(begun.elapsed())).await;
    assert!(host.handle_vote(ask(false, false)).await.unwrap().vote_granted);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_without_majority_refuses_and_recovers_from_disk() {
    let mut cluster = Cluster::formed(3, RaftTimings::default()).await;
    for n in 0..50 {
        cluster.propose(&n.to_string()).await;
    }
    let before = cluster.converged().await;
    let leader = cluster.leader().await;
    for id in (1..=3).filter(|id| *id != leader) {
        cluster.kill(id).await;
    }
    let replica = cluster.replica(leader);
    let short = Deadline::after(Duration::from_millis(300));
    let lost = replica.propose(Bytes::from_static(b"lost?"), short).await.unwrap_err();
    assert!(
        matches!(lost, GroupError::DeadlineExceeded { .. } | GroupError::Unavailable { .. }),
        "without a majority: {lost:?}"
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let read = replica.read_barrier(Barrier::Linearizable, Deadline::after(Duration::from_secs(3))).await;
    assert!(read.is_err(), "a read without a majority: {read:?}");
    cluster.kill(leader).await;
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.propose("again").await;
    let after = cluster.converged().await;
    assert_eq!(after[..50], before[..]);
    assert_eq!(after.last().unwrap(), "again");
    cluster.end().await;
}

/// Its lease still lasts when another is elected on its request, and here nobody can tell it.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hands_over_serves_nothing_stale() {
    let timings = RaftTimings {
        heartbeat: Duration::from_millis(500),
        election_min: Duration::from_millis(2000),
        election_max: Duration::from_millis(3000),
        ..RaftTimings::default()
    };
    let cluster = Cluster::formed(3, timings).await;
    cluster.propose("first").await;
    let old = cluster.leader().await;
    let (new, third) = (old % 3 + 1, (old + 1) % 3 + 1);
    cluster.nodes[&old].server.abort();
    let handing = tokio::spawn({
        let replica = cluster.replica(old).clone();
        async move { replica.transfer_leader(new).await }
    });
    let begun = Instant::now();
    let written = loop {
        if let Ok(written) = cluster.replica(new).propose(Bytes::from_static(b"new"), soon()).await {
            break written.index;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{new} does not lead");
        tokio::time::sleep(Duration::from_millis(2)).await;
    };
    let read = cluster.replica(old).read_barrier(Barrier::Linearizable, Deadline::after(Duration::from_secs(3))).await;
    println!("read {:?} after the hand-over began: {read:?}", begun.elapsed());
    assert!(read.as_ref().map_or(true, |index| *index >= written), "entry {written} is committed, but read: {read:?}");
    let _ = handing.await;
    assert_ne!(cluster.leader().await, old, "of {new} and {third}");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_moves_on_request_and_members_change_right_after() {
    let mut cluster = Cluster::formed(3, RaftTimings::default()).await;
    cluster.start(4).await;
    for _ in 0..3 {
        let leader = cluster.leader().await;
        let next = leader % 3 + 1;
        cluster.replica(leader).transfer_leader(next).await.unwrap();
        assert_eq!(cluster.leader().await, next);
        cluster.add_learner(next, 4).await;
        cluster.propose("x").await;
        cluster.change(next, MemberChange::SetVoters([1, 2, 3].into())).await;
        cluster.change(next, MemberChange::RemoveLearner(4)).await;
        assert!(cluster.replica(next).status().learners.is_empty());
    }
    let leader = cluster.leader().await;
    cluster.replica(leader).hand_over().await;
    assert_ne!(cluster.leader().await, leader);
    let outsider = cluster.replica(leader).transfer_leader(9).await;
    assert!(matches!(outsider, Err(GroupError::NotLeader { .. })), "{outsider:?}");
    cluster.end().await;
}
