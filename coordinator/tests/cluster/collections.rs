//! Collections come and go, also behind this coordinator's back.

use std::collections::BTreeSet;

use omma_common::error::{Reason, reason_of};
use omma_proto::v1 as pb;
use tonic::Code;

use crate::clients::{direction, ids, ready, vector};

#[tokio::test(flavor = "multi_thread")]
async fn collections_come_and_go() {
    let (cluster, mut clients) = ready().await;
    let create = |name: &str, id: &str| pb::CreateCollectionRequest {
        name: name.into(),
        request_id: id.into(),
        ..Default::default()
    };
    let first = clients.collections.create_collection(create("d", "r1")).await.unwrap().into_inner();
    assert_eq!(first.collection.as_ref().unwrap().vector_space.as_ref().unwrap().id, "omma-enc-test");
    let again = clients.collections.create_collection(create("d", "r1")).await.unwrap().into_inner();
    assert_eq!(first, again);
    let error = clients.collections.create_collection(create("d", "r2")).await.unwrap_err();
    assert_eq!((error.code(), reason_of(&error)), (Code::AlreadyExists, Some(Reason::CollectionExists)));
    clients.create("e").await;

    let mut names = vec![];
    let mut page_token = String::new();
    loop {
        let list = pb::ListCollectionsRequest { page_size: 2, page_token };
        let page = clients.collections.list_collections(list).await.unwrap().into_inner();
        names.extend(page.collections.into_iter().map(|c| c.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(names, ["c", "d", "e"]);

    clients.put(vec![vector("a", [1.0; 4])]).await.unwrap();
    let delete = |name: &str| pb::DeleteCollectionRequest { name: name.into() };
    clients.collections.delete_collection(delete("c")).await.unwrap();
    assert_eq!(cluster.state.lock().dropped.len(), 3);
    let error = clients.put(vec![vector("a", [1.0; 4])]).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Reason::CollectionNotFound));
    let error = clients.collections.delete_collection(delete("c")).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_was_broken_off_is_ended_by_the_next_call() {
    let (cluster, mut clients) = ready().await;
    {
        let mut state = cluster.state.lock();
        state.metadata.collections[0].deleting = true;
        state.metadata.version += 1;
        state.dropped.push((1, 1));
    }
    clients.collections.delete_collection(pb::DeleteCollectionRequest { name: "c".into() }).await.unwrap();
    assert!(cluster.state.lock().metadata.collections.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_comes_while_a_collection_is_deleted_drops_it_too() {
    let (cluster, mut clients) = ready().await;
    cluster.state.lock().grows_on_drop = true;
    clients.collections.delete_collection(pb::DeleteCollectionRequest { name: "c".into() }).await.unwrap();
    let state = cluster.state.lock();
    let mut dropped: Vec<u32> = state.dropped.iter().map(|(group, _)| *group).collect();
    dropped.sort_unstable();
    assert_eq!(dropped, [1, 2, 3, 4], "each once");
    assert!(state.metadata.collections.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn other_coordinators_collections_are_seen_at_once() {
    let (cluster, mut clients) = ready().await;
    // Made behind this coordinator's back: deleted and made again under the same name, with another uid.
    {
        let mut state = cluster.state.lock();
        state.dropped.extend([(1, 1), (2, 1), (3, 1)]);
        state.metadata.collections[0].collection.as_mut().unwrap().uid = 77;
        let mut other = state.metadata.collections[0].clone();
        other.collection.as_mut().unwrap().name = "other".into();
        other.collection.as_mut().unwrap().uid = 78;
        state.metadata.collections.push(other);
        state.metadata.version += 1;
    }
    clients.put(vec![vector("a", [1.0; 4])]).await.unwrap();
    assert_eq!(ids(&clients.find(direction([1.0; 4]), |_| {}).await.unwrap()), ["a"]);
    clients.find(direction([1.0; 4]), |r| r.collection = "other".into()).await.unwrap();
    let uids: BTreeSet<u64> = cluster.state.lock().records.values().flat_map(|r| r.keys().map(|k| k.0)).collect();
    assert_eq!(uids, BTreeSet::from([77]));
}
