//! What a host does with its replicas: several groups, stops and starts, failures, and messages for none of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::error::{Reason, reason_of};
use omma_common::ids::GroupId;
use omma_proto::internal::v1 as proto;
use tokio::task::JoinSet;

use super::{Cluster, GROUP, soon};
use crate::group::state_machine::StateMachine;
use crate::group::test_state::MemoryState;
use crate::group::{Barrier, GroupError, RaftTimings, Replica};

#[tokio::test(flavor = "multi_thread")]
async fn unknown_groups_and_malformed_messages_are_refused() {
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
    let index = cluster.replica(leader).propose(Bytes::from_static(b"second"), soon()).await.unwrap().index;
    let state: Arc<dyn StateMachine> = follower.state.clone();
    let again = follower.host.start(GROUP, state).await.unwrap();
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
