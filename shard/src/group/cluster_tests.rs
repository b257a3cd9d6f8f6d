//! Groups of real replicas over loopback gRPC, in one process.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::deadline::Deadline;
use omma_common::ids::{GroupId, NodeId};
use omma_proto::internal::v1 as proto;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::state_machine::StateMachine;
use super::test_state::{Disk, MemoryState};
use super::*;
use crate::api::raft::RaftApi;
use crate::room::Room;

const GROUP: GroupId = 1;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// A running node.
struct Node {
    host: Arc<GroupHost>,
    replica: Replica,
    state: Arc<MemoryState>,
    server: JoinHandle<()>,
}

/// What outlives a node's process.
struct Place {
    folder: PathBuf,
    disk: Arc<Disk>,
}

struct Cluster {
    dir: tempfile::TempDir,
    timings: RaftTimings,
    addresses: AddressBook,
    places: BTreeMap<NodeId, Place>,
    nodes: BTreeMap<NodeId, Node>,
}

impl Cluster {
    /// Nodes that know nothing of each other yet.
    async fn idle(nodes: u64, timings: RaftTimings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let addresses = AddressBook::default();
        let mut cluster = Self { dir, timings, addresses, places: BTreeMap::new(), nodes: BTreeMap::new() };
        for id in 1..=nodes {
            cluster.start(id).await;
        }
        cluster
    }

    /// A group of all nodes, with a leader.
    async fn formed(nodes: u64, timings: RaftTimings) -> Self {
        let cluster = Self::idle(nodes, timings).await;
        let members: Vec<_> = (1..=nodes).map(|id| (id, cluster.addresses.get(id).unwrap())).collect();
        for node in cluster.nodes.values() {
            assert!(!node.replica.is_initialised().await.unwrap());
        }
        for node in cluster.nodes.values() {
            node.replica.initialise(&members).await.unwrap();
            node.replica.initialise(&members).await.unwrap();
        }
        cluster.leader().await;
        cluster
    }

    async fn start(&mut self, id: NodeId) {
        let new = || Place { folder: self.dir.path().join(id.to_string()), disk: Arc::default() };
        let place = self.places.entry(id).or_insert_with(new);
        let (folder, timings, addresses) = (place.folder.clone(), self.timings.clone(), self.addresses.clone());
        let host = tokio::task::spawn_blocking(move || {
            GroupHost::open(&folder, id, timings, addresses, Default::default(), Room::unchecked()).unwrap()
        });
        let host = host.await.unwrap();
        let state = MemoryState::on(&place.disk);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.addresses.set(id, listener.local_addr().unwrap().to_string());
        let service = RaftApi::service(host.clone());
        let server = tokio::spawn(async move {
            let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
        });
        let replica = host.start(GROUP, state.clone() as Arc<dyn StateMachine>).await.unwrap();
        self.nodes.insert(id, Node { host, replica, state, server });
    }

    /// Without warning to the others.
    async fn kill(&mut self, id: NodeId) {
        let node = self.nodes.remove(&id).unwrap();
        node.server.abort();
        node.host.shutdown().await;
    }

    /// Loses log and state.
    fn wipe(&mut self, id: NodeId) {
        assert!(!self.nodes.contains_key(&id));
        std::fs::remove_dir_all(self.places.remove(&id).unwrap().folder).unwrap();
    }

    fn replica(&self, id: NodeId) -> &Replica {
        &self.nodes[&id].replica
    }

    /// The leader that a majority of the running nodes agrees on.
    async fn leader(&self) -> NodeId {
        let begun = Instant::now();
        loop {
            let states: Vec<_> = self.nodes.values().map(|n| n.replica.status()).collect();
            let leads = |id: &NodeId| self.nodes.get(id).is_some_and(|n| n.replica.status().role == Role::Leader);
            let leader = states
                .iter()
                .filter_map(|s| s.leader)
                .find(|id| leads(id) && states.iter().filter(|s| s.leader == Some(*id)).count() * 2 > states.len());
            if let Some(leader) = leader {
                return leader;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no leader: {states:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Proposes through whoever leads, until it is acknowledged.
    async fn propose(&self, command: &str) -> Proposed {
        let begun = Instant::now();
        loop {
            let leader = self.leader().await;
            match self.replica(leader).propose(Bytes::from(command.to_owned()), soon()).await {
                Ok(proposed) => return proposed,
                Err(error) => assert!(begun.elapsed() < Duration::from_secs(20), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// All running replicas come to hold the same commands, which are returned.
    async fn converged(&self) -> Vec<Bytes> {
        let begun = Instant::now();
        loop {
            let applied: BTreeSet<_> = self.nodes.values().map(|n| n.replica.status().applied).collect();
            let commands: BTreeSet<_> = self.nodes.values().map(|n| n.state.commands()).collect();
            if applied.len() == 1 && commands.len() == 1 {
                return commands.into_iter().next().unwrap();
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "applied {applied:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Changes members through `leader`, as they are now; tries again for as long as new voters lag.
    async fn change(&self, leader: NodeId, change: MemberChange) {
        let (replica, begun) = (self.replica(leader), Instant::now());
        while let Err(error) = replica.change_members(replica.status().members_index, change.clone(), soon()).await {
            assert!(matches!(error, GroupError::Membership { .. }), "{change:?}: {error}");
            assert!(begun.elapsed() < Duration::from_secs(20), "{change:?}: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn add_learner(&self, leader: NodeId, node: NodeId) {
        let address = self.addresses.get(node).unwrap();
        self.change(leader, MemberChange::AddLearner { node, address }).await;
    }

    async fn end(mut self) {
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.kill(id).await;
        }
    }
}

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
    cluster.end().await;
}

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
    use omma_proto::internal::v1 as proto;
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
    assert_eq!((empty.status().last_log, empty.may_vote()), (0, false));
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
    assert!(!cluster.replica(gone).may_vote());
    let leader = cluster.leader().await;
    cluster.add_learner(leader, gone).await;
    cluster.change(leader, MemberChange::SetVoters([1, 2, 3].into())).await;
    cluster.propose("last").await;
    cluster.converged().await;
    assert!(cluster.replica(gone).may_vote());
    // It was restarted, so it first lets the longest lease pass.
    let begun = Instant::now();
    while cluster.nodes[&gone].host.handle_vote(ask).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never votes again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
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

#[tokio::test(flavor = "multi_thread")]
async fn unknown_groups_and_malformed_messages_are_refused() {
    use omma_common::error::{Reason, reason_of};
    let cluster = Cluster::idle(1, RaftTimings::default()).await;
    let host = &cluster.nodes[&1].host;
    let request = proto::VoteRequest { group_id: 99, ..Default::default() };
    assert_eq!(reason_of(&host.handle_vote(request).await.unwrap_err()), Some(Reason::UnknownGroup));
    let request = proto::AppendRequest { group_id: GROUP, ..Default::default() };
    assert_eq!(host.handle_append(request.clone()).await.unwrap_err().code(), tonic::Code::InvalidArgument);
    let header = proto::SnapshotHeader {
        group_id: GROUP,
        vote: Some(proto::RaftVote { term: 1, node_id: 2, committed: true }),
        applied: Some(proto::RaftApplied {
            last_applied: None,
            membership: Some(proto::RaftStoredMembership { log_id: None, membership: Some(Default::default()) }),
        }),
        to: 0,
    };
    use proto::install_snapshot_request::Message;
    let chunk = Message::Chunk(Bytes::from_static(b"chunk"));
    let lies = Message::Trailer(proto::SnapshotTrailer { bytes: 5, digest: Bytes::from(vec![0; 32]) });
    for (messages, code) in [
        (vec![chunk.clone()], tonic::Code::InvalidArgument),
        (vec![Message::Header(header.clone())], tonic::Code::InvalidArgument),
        (vec![Message::Header(header.clone()), chunk.clone(), lies], tonic::Code::Internal),
    ] {
        let messages = messages.into_iter().map(|m| Ok(proto::InstallSnapshotRequest { message: Some(m) }));
        let refused = host.handle_snapshot(futures::stream::iter(messages)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{refused}");
    }
    assert!(cluster.nodes[&1].state.commands().is_empty());
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_stops_and_starts_again_in_its_process() {
    let cluster = Cluster::formed(3, RaftTimings::default()).await;
    cluster.propose("first").await;
    let leader = cluster.leader().await;
    let follower = &cluster.nodes[&(leader % 3 + 1)];
    follower.host.stop(GROUP).await;
    assert!(follower.host.get(GROUP).is_none());
    cluster.replica(leader).propose(Bytes::from_static(b"second"), soon()).await.unwrap();
    let state: Arc<dyn StateMachine> = follower.state.clone();
    let again = follower.host.start(GROUP, state).await.unwrap();
    let index = cluster.replica(leader).status().applied;
    again.read_barrier(Barrier::AtLeast(index), soon()).await.unwrap();
    assert_eq!(follower.state.commands(), ["first", "second"]);
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_share_connections_and_log_but_not_entries() {
    let mut cluster = Cluster::idle(3, RaftTimings::default()).await;
    let members: Vec<_> = (1..=3).map(|id| (id, cluster.addresses.get(id).unwrap())).collect();
    let mut replicas: BTreeMap<GroupId, Vec<(Replica, Arc<MemoryState>)>> = BTreeMap::new();
    for group in [0, 2, 3] {
        for node in cluster.nodes.values() {
            let state = Arc::new(MemoryState::default());
            let replica = node.host.start(group, state.clone() as Arc<dyn StateMachine>).await.unwrap();
            replica.initialise(&members).await.unwrap();
            replicas.entry(group).or_default().push((replica, state));
        }
    }
    let mut writers = JoinSet::new();
    for (group, replicas) in replicas.clone() {
        writers.spawn(async move {
            for n in 0..20 {
                let begun = Instant::now();
                // Until some replica of the group takes it.
                'tries: loop {
                    for (replica, _) in &replicas {
                        if replica.propose(format!("{group}/{n}").into(), soon()).await.is_ok() {
                            break 'tries;
                        }
                    }
                    assert!(begun.elapsed() < Duration::from_secs(20), "group {group} takes nothing");
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        });
    }
    writers.join_all().await;
    for (group, replicas) in &replicas {
        let expected: BTreeSet<_> = (0..20).map(|n| Bytes::from(format!("{group}/{n}"))).collect();
        let index = replicas.iter().map(|(r, _)| r.status().applied).max().unwrap();
        for (replica, state) in replicas {
            replica.read_barrier(Barrier::AtLeast(index), soon()).await.unwrap();
            assert_eq!(state.commands().into_iter().collect::<BTreeSet<_>>(), expected);
        }
    }
    let host = cluster.nodes[&1].host.clone();
    assert_eq!(host.replicas().iter().map(Replica::group).collect::<Vec<_>>(), [0, GROUP, 2, 3]);
    cluster.kill(1).await;
    let refused = host.start(4, Arc::new(MemoryState::default())).await.err();
    assert!(matches!(refused, Some(GroupError::Stopped(4))), "{refused:?}");
    cluster.end().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_panicked_has_failed() {
    let cluster = Cluster::formed(1, RaftTimings::default()).await;
    let replica = cluster.replica(1);
    assert!(replica.failure().is_none());
    assert!(replica.raft().with_raft_state(|_| -> () { panic!("in a test") }).await.is_err());
    let begun = Instant::now();
    while replica.failure().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody notices");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
