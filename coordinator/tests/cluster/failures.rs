//! Nodes that are slow, dead or deposed, and what their clients see of it.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use omma_common::error::{Reason, reason_of};
use omma_proto::v1 as pb;
use omma_proto::v1::query::Target;
use tonic::{Code, Request};

use crate::clients::{Clients, direction, ids, ready, vector};
use crate::support::Cluster;

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_asked_for_again_with_the_same_request_id() {
    let (cluster, mut clients) = ready().await;
    let id = cluster.id_in(2, 0);
    cluster.script(2).lose_next_answer.store(true, Ordering::SeqCst);
    let put = clients.put(vec![vector(&id, [1.0; 4])]).await.unwrap();
    // Created, not replaced: the second try was answered as the first.
    assert_eq!(put.results[0].effect, pb::PutEffect::Created as i32);
    let tried = cluster.state.lock().request_ids.clone();
    assert_eq!(tried.len(), 2);
    assert_eq!(tried[0], tried[1]);
    assert!(!tried[0].1.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_follow_a_new_leader() {
    let (cluster, mut clients) = ready().await;
    let id = cluster.id_in(2, 0);
    clients.put(vec![vector(&id, [1.0; 4])]).await.unwrap();
    // The coordinator still takes node 2 for the leader: it is pointed to node 3.
    cluster.elect(2, 3);
    clients.put(vec![vector(&id, [1.0; 4])]).await.unwrap();
    assert_eq!(cluster.script(3).puts.load(Ordering::SeqCst), 1);

    // The leader dies in the middle of a write, another is elected a moment later.
    *cluster.script(3).delay.lock() = Duration::from_secs(60);
    let write = {
        let mut clients = Clients::of(&cluster);
        let image = vector(&id, [0.5; 4]);
        tokio::spawn(async move { clients.put(vec![image]).await })
    };
    while cluster.script(3).in_flight.load(Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let begun = Instant::now();
    cluster.kill(3);
    tokio::time::sleep(Duration::from_millis(300)).await;
    cluster.elect(2, 1);
    let put = write.await.unwrap().unwrap();
    assert!(put.results[0].error.is_none(), "{put:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hangs_is_left_when_another_is_elected() {
    let (cluster, mut clients) = ready().await;
    let id = cluster.id_in(2, 0);
    *cluster.script(2).delay.lock() = Duration::from_secs(60);
    let image = vector(&id, [0.5; 4]);
    let begun = Instant::now();
    let write = tokio::spawn(async move { clients.put(vec![image]).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.elect(2, 1);
    assert!(write.await.unwrap().unwrap().results[0].error.is_none());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_without_a_leader_ends_at_the_deadline_with_a_typed_error() {
    let (cluster, mut clients) = ready().await;
    let (dead, alive) = (cluster.id_in(2, 0), cluster.id_in(1, 0));
    cluster.state.lock().dead_groups.push(2);
    let put = |images| {
        let mut request = Request::new(pb::PutImagesRequest { collection: "c".into(), images, ..Default::default() });
        request.set_timeout(Duration::from_millis(1500));
        request
    };
    let error = clients.images.put_images(put(vec![vector(&dead, [1.0; 4])])).await.unwrap_err();
    assert!(matches!(reason_of(&error), Some(Reason::GroupUnavailable)), "{error:?}");
    // Together with a group that works, each image has its own outcome.
    let both = put(vec![vector(&dead, [1.0; 4]), vector(&alive, [1.0; 4])]);
    let put = clients.images.put_images(both).await.unwrap().into_inner();
    assert_eq!(put.results[0].error.as_ref().unwrap().code, Code::Unavailable as i32);
    assert!(put.results[1].error.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_answer_needs_leave() {
    let (cluster, mut clients) = ready().await;
    let alive = cluster.id_in(1, 0);
    clients.put(vec![vector(&alive, [1.0; 4])]).await.unwrap();
    cluster.state.lock().dead_groups.push(2);
    let any = |r: &mut pb::SearchRequest| r.consistency = pb::Consistency::Any as i32;
    let error = clients.find(direction([1.0; 4]), any).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::PartialAnswer));
    assert!(error.message().contains("group 2"), "{error}");
    for consistency in [pb::Consistency::Any, pb::Consistency::Linearizable] {
        let allow = |r: &mut pb::SearchRequest| {
            r.consistency = consistency as i32;
            r.allow_partial = true;
        };
        let begun = Instant::now();
        let found = clients.find(direction([1.0; 4]), allow).await.unwrap();
        let any = consistency == pb::Consistency::Any;
        assert!(!any || begun.elapsed() < Duration::from_secs(1), "nobody is there to wait for: {:?}", begun.elapsed());
        assert_eq!(ids(&found), [alive.as_str()]);
        let coverage = found.coverage.unwrap();
        assert_eq!((coverage.groups_asked, coverage.groups_answered, coverage.failures[0].group_id), (3, 2, 2));
    }
    cluster.state.lock().dead_groups.extend([1, 3]);
    let allow = |r: &mut pb::SearchRequest| {
        r.consistency = pb::Consistency::Any as i32;
        r.allow_partial = true;
    };
    let error = clients.find(direction([1.0; 4]), allow).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::PartialAnswer), "nothing at all is no answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_and_dead_replicas_do_not_slow_a_search() {
    let (cluster, mut clients) = ready().await;
    clients.put(vec![vector("a", [1.0; 4])]).await.unwrap();
    *cluster.script(1).delay.lock() = Duration::from_secs(20);
    let any = |r: &mut pb::SearchRequest| r.consistency = pb::Consistency::Any as i32;
    for _ in 0..10 {
        let begun = Instant::now();
        assert_eq!(ids(&clients.find(direction([1.0; 4]), any).await.unwrap()), ["a"]);
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    }
    assert!(
        cluster.script(1).searches.load(Ordering::SeqCst) > 0,
        "the slow node was never chosen: nothing was hedged"
    );
    cluster.kill(3);
    for _ in 0..10 {
        assert_eq!(ids(&clients.find(direction([1.0; 4]), any).await.unwrap()), ["a"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_goes_by_a_newer_map_also_if_a_node_is_dead() {
    // No poll comes in between.
    let cluster = Cluster::start_with(|config| config.poll_interval = Duration::from_secs(600)).await;
    let mut clients = Clients::of(&cluster);
    clients.create("c").await;
    cluster.kill(3);
    let any = |r: &mut pb::SearchRequest| r.consistency = pb::Consistency::Any as i32;
    for first in [700, 800, 900, 1000, 1100] {
        // Once it was met, the dead node is asked last: what it does not say is heard last.
        clients.find(direction([1.0; 4]), any).await.unwrap();
        cluster.move_slots(first);
        clients.find(direction([1.0; 4]), any).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pictures_are_encoded_by_whoever_can() {
    let (cluster, mut clients) = ready().await;
    cluster.script(1).down.store(true, Ordering::SeqCst);
    cluster.script(2).down.store(true, Ordering::SeqCst);
    let any = |r: &mut pb::SearchRequest| r.consistency = pb::Consistency::Any as i32;
    for _ in 0..5 {
        clients.find(Target::Picture(Bytes::from_static(&[1, 2, 3, 4])), any).await.unwrap();
    }
    assert_eq!(cluster.script(3).encodes.load(Ordering::SeqCst), 5);
    let error = clients.find(Target::Picture(Bytes::from_static(b"x")), any).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::InvalidPicture));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_told_as_such() {
    let (cluster, mut clients) = ready().await;
    *cluster.script(1).delay.lock() = Duration::from_secs(20);
    let images = vec![vector(&cluster.id_in(1, 0), [1.0; 4])];
    let mut request = Request::new(pb::PutImagesRequest { collection: "c".into(), images, ..Default::default() });
    request.set_timeout(Duration::from_secs(2));
    let begun = Instant::now();
    let error = clients.images.put_images(request).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error)), (Code::DeadlineExceeded, Some(Reason::DeadlineExceeded)));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}
