//! Replicas that lag, are new, or have lost what they had; changes of who is a member.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::deadline::Deadline;
use omma_common::ids::NodeId;
use omma_proto::internal::v1 as proto;

use super::{Cluster, GROUP, soon};
use crate::group::state_machine::StateMachine;
use crate::group::test_state::MemoryState;
use crate::group::{GroupError, MemberChange, RaftTimings};

#[tokio::test(flavor = "multi_thread")]
async fn a_lagging_and_a_new_replica_catch_up_by_snapshot() {
    let timings = RaftTimings { snapshot_every: 50, keep_logs: 10, ..RaftTimings::default() };
    let mut cluster = Cluster::formed(3, timings).await;
    cluster.propose("first").await;
    let leader = cluster.leader().await;
    let lagging = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(lagging).await;
    for n in 0..300 {
        cluster.propose(&n.to_string()).await;
    }
    cluster.start(lagging).await;
    // While the snapshot is sent.
    for n in 300..400 {
        cluster.propose(&n.to_string()).await;
    }
    assert_eq!(cluster.converged().await.len(), 401);
    assert!(cluster.nodes[&lagging].state.installs.load(Ordering::Relaxed) > 0, "it caught up without a snapshot");
    // A wiped node must come back under a new id: the old one's votes are forgotten.
    cluster.kill(lagging).await;
    cluster.wipe(lagging);
    cluster.start(4).await;
    let leader = cluster.leader().await;
    cluster.add_learner(leader, 4).await;
    assert_eq!(cluster.replica(leader).status().learners, [4]);
    let voters: BTreeSet<NodeId> = [1, 2, 3, 4].into_iter().filter(|id| *id != lagging).collect();
    cluster.change(leader, MemberChange::SetVoters(voters.clone())).await;
    assert_eq!(cluster.replica(leader).status().voters, voters.into_iter().collect::<Vec<_>>());
    cluster.propose("last").await;
    assert_eq!(cluster.converged().await.len(), 402);
    assert!(cluster.nodes[&4].state.installs.load(Ordering::Relaxed) > 0, "it caught up without a snapshot");
    assert_eq!(std::fs::read_dir(cluster.places[&4].folder.join("spool")).unwrap().count(), 0);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_takes_long_over_a_snapshot_needs_no_other_however_much_is_written_meanwhile() {
    let timings = RaftTimings { snapshot_every: 50, keep_logs: 10, ..RaftTimings::default() };
    let mut cluster = Cluster::formed(3, timings).await;
    cluster.propose("first").await;
    let lagging = cluster.leader().await % 3 + 1;
    cluster.kill(lagging).await;
    for n in 0..300 {
        cluster.propose(&n.to_string()).await;
    }
    cluster.places[&lagging].disk.install_ms.store(3_000, Ordering::Relaxed);
    let begun = Instant::now();
    cluster.start(lagging).await;
    let mut written = 301;
    while begun.elapsed() < Duration::from_secs(3) {
        cluster.propose(&written.to_string()).await;
        written += 1;
    }
    assert_eq!(cluster.converged().await.len(), written);
    assert_eq!(cluster.nodes[&lagging].state.installs.load(Ordering::Relaxed), 1);
    cluster.end().await;
}

/// A wiped node returns under a new id, at its old address: what is sent to the old id is not for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_answers_nothing_in_the_name_of_the_one_it_was() {
    let mut cluster = Cluster::formed(3, RaftTimings::default()).await;
    cluster.propose("first").await;
    let leader = cluster.leader().await;
    let (wiped, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.kill(wiped).await;
    cluster.wipe(wiped);
    cluster.start(4).await;
    cluster.addresses.set(wiped, cluster.addresses.get(4).unwrap());
    cluster.propose("with two of three").await;
    cluster.kill(other).await;
    // The leader is the only member left. Were the newcomer counted for the wiped one, this would be acknowledged.
    let alone = Deadline::after(Duration::from_secs(3));
    let refused = cluster.replica(leader).propose(Bytes::from_static(b"with one of three"), alone).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(!cluster.replica(4).is_initialised().await.unwrap(), "it took a log that is not its own");
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_at_the_address_of_an_old_one_is_not_taken_for_it() {
    let mut cluster = Cluster::formed(3, RaftTimings::default()).await;
    cluster.propose("before").await;
    cluster.converged().await;
    let leader = cluster.leader().await;
    let lost = leader % 3 + 1;
    cluster.kill(lost).await;
    cluster.wipe(lost);
    cluster.start(4).await;
    cluster.addresses.set(lost, cluster.addresses.get(4).unwrap());
    for n in 0..20 {
        cluster.propose(&n.to_string()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(cluster.replica(4).status().last_log, 0, "it took what was meant for the other");
    assert_eq!(cluster.replica(leader).status().voters, [1, 2, 3]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_or_repeated_change_of_members_is_refused() {
    let mut cluster = Cluster::formed(3, RaftTimings::default()).await;
    cluster.start(4).await;
    cluster.propose("x").await;
    let leader = cluster.leader().await;
    let before = cluster.replica(leader).status().members_index;
    cluster.add_learner(leader, 4).await;
    let again = cluster.replica(leader).change_members(before, MemberChange::RemoveLearner(4), soon()).await;
    assert!(matches!(again, Err(GroupError::Membership { .. })), "{again:?}");
    let state = cluster.replica(leader).status();
    assert!(state.members_committed && !state.joint && state.learners == [4], "{state:?}");
    // The leader itself goes: the others elect another.
    let voters: BTreeSet<NodeId> = (1..=4).filter(|id| *id != leader).collect();
    cluster.change(leader, MemberChange::SetVoters(voters.clone())).await;
    cluster.kill(leader).await;
    cluster.propose("y").await;
    assert_eq!(cluster.replica(cluster.leader().await).status().voters, voters.into_iter().collect::<Vec<_>>());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_comes_back_empty_does_not_vote_before_it_has_caught_up() {
    let mut cluster = Cluster::formed(3, RaftTimings::default()).await;
    for n in 0..20 {
        cluster.propose(&n.to_string()).await;
    }
    cluster.converged().await;
    let leader = cluster.leader().await;
    let gone = leader % 3 + 1;
    let stays: BTreeSet<NodeId> = (1..=3).filter(|id| *id != gone).collect();
    cluster.change(leader, MemberChange::SetVoters(stays)).await;
    let node = &cluster.nodes[&gone];
    assert!(node.host.erase(GROUP).await.is_err(), "while its replica runs");
    node.host.stop(GROUP).await;
    node.host.erase(GROUP).await.unwrap();
    let state = MemoryState::on(&Arc::default());
    let empty = node.host.start(GROUP, state.clone() as Arc<dyn StateMachine>).await.unwrap();
    assert_eq!((empty.status().last_log, empty.may_vote_for(None)), (0, false));
    let ask = proto::VoteRequest {
        group_id: GROUP,
        vote: Some(proto::RaftVote { term: 99, node_id: gone % 3 + 1, committed: false }),
        pre_vote: true,
        ..Default::default()
    };
    assert!(node.host.handle_vote(ask).await.is_err(), "it would elect whoever lacks what it acknowledged");
    // Also after a restart.
    cluster.kill(gone).await;
    cluster.places.get_mut(&gone).unwrap().disk = Arc::default();
    cluster.start(gone).await;
    assert!(!cluster.replica(gone).may_vote_for(None));
    let leader = cluster.leader().await;
    cluster.add_learner(leader, gone).await;
    cluster.change(leader, MemberChange::SetVoters([1, 2, 3].into())).await;
    cluster.propose("last").await;
    cluster.converged().await;
    assert!(cluster.replica(gone).may_vote_for(None));
    // It was restarted, so it first lets the longest lease pass.
    let begun = Instant::now();
    while cluster.nodes[&gone].host.handle_vote(ask).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never votes again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cluster.end().await;
}
